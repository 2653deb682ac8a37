"""Two sweeps at once, jobs that hang, and damaged runs among the jobs of a sweep."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sweep_jobs import METRIC, finish, history, job
from test_pool import Scripts

from skinkd.jobs.places import Places
from skinkd.jobs.pool import Pool
from skinkd.jobs.processes import LocalProcesses
from skinkd.jobs.sweep import Job, last_sign, progress, write_sweep
from skinkd.jobs.view import SweepView

ONE = Places([{}], {}, False)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skinkd.jobs.pool._POLL", 0.02)
    monkeypatch.setattr("skinkd.jobs.pool._SHOW", 0.05)


class Told(SweepView):
    """A view that remembers its lines."""

    def __init__(self, jobs: list[Job]) -> None:
        super().__init__(jobs, at_once=1, metric=METRIC)
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def run(folder: Path, jobs: list[Job], scripts: dict[str, str], **settings: Any) -> tuple[list[str], Scripts]:
    view = Told(jobs)
    with LocalProcesses() as processes:
        start = Scripts(folder, processes, scripts)
        logs = {one: folder / f"{one.folder.name}.log" for one in jobs}
        Pool(jobs, ONE, start, logs=logs, extra=[], **settings).run(view)
    return view.lines, start


def test_a_second_sweep_waits_for_the_jobs_of_its_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both start before any job has locked its run folder; each run is trained once, and none fails."""
    if threading.current_thread() is threading.main_thread():  # signals are for the main thread alone
        monkeypatch.setattr("skinkd.jobs.pool.signal.signal", lambda *_: None)
    slow = {f"j{number}": "time.sleep(0.2); finish()" for number in range(3)}
    sweeps = [[job(tmp_path / f"j{number}") for number in range(3)] for _ in range(2)]
    with ThreadPoolExecutor() as threads:
        results = list(threads.map(lambda jobs: run(tmp_path, jobs, slow), sweeps))
    states = [[one.state for one in jobs] for jobs in sweeps]
    for pair in zip(*states, strict=True):
        assert sorted(pair) == ["finished", "skipped"], states
    notes = (tmp_path / "notes").read_text().splitlines()
    assert sorted(line for line in notes if line.startswith("begin")) == ["begin j0", "begin j1", "begin j2"]
    assert any("waits for another process" in line for lines, _ in results for line in lines)


def test_the_second_sweep_runs_what_its_twin_failed_to(tmp_path: Path) -> None:
    first, second = job(tmp_path / "j0"), job(tmp_path / "j0")
    run(tmp_path, [first], {"j0": "sys.exit(1)"})
    run(tmp_path, [second], {})
    assert (first.state, second.state) == ("failed", "finished")


@pytest.mark.parametrize("ended", [False, True])
def test_a_job_without_progress_is_named_and_ended_if_asked(tmp_path: Path, ended: bool) -> None:
    hangs, works = job(tmp_path / "j0", "seed=0"), job(tmp_path / "j1", "seed=1")
    scripts = {"j0": f"time.sleep({60 if ended else 1.5}); finish()", "j1": "finish()"}
    began = time.monotonic()
    lines, _ = run(tmp_path, [hangs, works], scripts, stall_minutes=(1 if ended else 0.5) / 60, end_stalled=ended)
    named = [line for line in lines if line.startswith("seed=0 has made no progress")]
    assert len(named) == 1 and str(tmp_path / "j0.log") in named[0]
    assert works.state == "finished"
    assert hangs.state == ("failed" if ended else "finished")
    assert not ended or (time.monotonic() - began < 30 and "no progress" in hangs.error)


def test_whoever_shows_progress_is_not_named(tmp_path: Path) -> None:
    working = "\n".join(
        ["for number in range(15):", "    print(number, flush=True)", "    time.sleep(0.1)", "finish()"]
    )
    lines, _ = run(tmp_path, [job(tmp_path / "j0")], {"j0": working}, stall_minutes=1 / 60)
    assert not [line for line in lines if "no progress" in line]


def test_signs_of_life(tmp_path: Path) -> None:
    one, log = job(tmp_path / "run"), tmp_path / "log"
    assert last_sign(one, log) == 0
    log.write_text("x")
    history(one.folder, [1.0])
    assert last_sign(one, log) == max(path.stat().st_mtime for path in (log, one.folder / "history.csv"))


@pytest.mark.parametrize(
    ("name", "text"),
    [("metrics.json", '{"test/n": '), ("history.csv", "\x00\x00"), ("config.yaml", "a: [1"), ("splits.csv", "x")],
)
def test_a_damaged_run_does_not_end_the_sweep(tmp_path: Path, name: str, text: str) -> None:
    jobs = [job(tmp_path / f"j{number}") for number in range(3)]
    finish(jobs[0].folder)
    jobs[1].folder.mkdir()
    (jobs[1].folder / name).write_text(text)
    run(tmp_path, jobs, {})
    assert [one.state for one in jobs] == ["skipped", "finished", "finished"]
    assert progress(jobs[1].folder, METRIC).epochs == 0


def test_a_damaged_list_of_runs_is_written_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sweeps" / "g"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text('{"group": "g", "jo')
    write_sweep(folder, "g", [job(tmp_path / "a")], tmp_path)
    assert "sweep.json is damaged" in capsys.readouterr().out
    assert [one["folder"] for one in json.loads((folder / "sweep.json").read_text())["jobs"]] == ["a"]


def test_two_sweeps_that_write_at_once_lose_no_run(tmp_path: Path) -> None:
    folder = tmp_path / "sweeps" / "g"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: write_sweep(folder, "g", [job(tmp_path / f"j{n}")], tmp_path), range(24)))
    stored = json.loads((folder / "sweep.json").read_text())["jobs"]
    assert {one["folder"] for one in stored} == {f"j{number}" for number in range(24)}
