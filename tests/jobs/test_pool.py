"""The pool: in what order jobs run, what stops none of them, and that no process outlives a sweep.

Here jobs are short scripts; real trainings are in test_multirun.py.
"""

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from rich.console import Console
from sweep_jobs import METRIC, finish, job

from skinkd.jobs.places import Places
from skinkd.jobs.pool import Pool, run_sweep
from skinkd.jobs.processes import LocalProcess, LocalProcesses
from skinkd.jobs.sweep import Job
from skinkd.jobs.view import SweepView


class Scripts:
    """Starts a script in a job's place: it notes when it begins and ends, and finishes its run unless told otherwise."""

    def __init__(self, folder: Path, processes: LocalProcesses, scripts: Mapping[str, str]) -> None:
        self.folder, self.processes, self.scripts = folder, processes, scripts
        self.environments: dict[str, Mapping[str, str]] = {}
        self.said = io.StringIO()

    def __call__(self, command: list[str], log: Path, environment: Mapping[str, str], name: str) -> LocalProcess:
        assert command[:3] == [sys.executable, "-m", "skinkd.train"]
        self.environments[name] = environment
        script = f"""
import os, sys, time, json
from pathlib import Path
folder = Path({str(self.folder / name)!r}); notes = Path({str(self.folder / "notes")!r})
def note(word):
    with notes.open("a") as file: file.write(f"{{word}} {name}\\n")
def finish(at=folder): at.mkdir(exist_ok=True); (at / "metrics.json").write_text('{{"test/n": 9}}')
note("begin"); time.sleep(0.1)
{self.scripts.get(name, "finish()")}
note("end")
"""
        return self.processes.start([sys.executable, "-S", "-c", script], log, environment, name)


def run_pool(
    folder: Path, jobs: list[Job], places: Places, scripts: Mapping[str, str] | None = None
) -> tuple[Scripts, list[str]]:
    with LocalProcesses() as processes:
        start = Scripts(folder, processes, scripts or {})
        logs = {one: folder / "logs" / f"{one.folder.name}.log" for one in jobs}
        view = SweepView(jobs, at_once=len(places.places), metric=METRIC, console=Console(file=start.said))
        Pool(jobs, places, start, logs=logs, extra=["group=g"]).run(view)
    notes = folder / "notes"
    return start, notes.read_text().splitlines() if notes.exists() else []


def most_at_once(notes: list[str]) -> int:
    count = most = 0
    for line in notes:
        count += 1 if line.startswith("begin") else -1
        most = max(most, count)
    return most


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skinkd.jobs.pool._POLL", 0.02)
    monkeypatch.setattr("skinkd.jobs.pool._SHOW", 0.05)


@pytest.mark.parametrize("width", [1, 3])
def test_as_many_at_once_as_there_are_places(tmp_path: Path, width: int) -> None:
    jobs = [job(tmp_path / f"j{number}") for number in range(5)]
    finish(jobs[3].folder)
    places = Places([{"CUDA_VISIBLE_DEVICES": str(number)} for number in range(width)], {}, True)
    slow = dict.fromkeys(["j0", "j1", "j2", "j4"], "time.sleep(0.5); finish()")
    start, notes = run_pool(tmp_path, jobs, places, slow)
    assert [one.state for one in jobs] == ["finished"] * 3 + ["skipped", "finished"]
    assert most_at_once(notes) == width
    assert "begin j3" not in notes  # finished already: not even started
    used = {environment["CUDA_VISIBLE_DEVICES"] for environment in start.environments.values()}
    assert used == {str(number) for number in range(width)}


def test_a_failed_job_stops_no_other_and_is_tried_again(tmp_path: Path) -> None:
    jobs = [job(tmp_path / f"j{number}") for number in range(4)]
    scripts = {"j0": "sys.exit('error: no such thing')", "j1": "os.kill(os.getpid(), 9)", "j2": "pass"}
    run_pool(tmp_path, jobs, Places([{}], {}, False), scripts)
    assert [one.state for one in jobs] == ["failed"] * 3 + ["finished"]
    assert [one.code for one in jobs] == [1, -9, 0, 0]
    assert jobs[0].error == "no such thing"
    assert jobs[2].error.startswith(f"its exit code is 0, but {jobs[2].folder} is not finished; ")
    again = [job(one.folder) for one in jobs]
    run_pool(tmp_path, again, Places([{}], {}, False))
    assert [one.state for one in again] == ["finished"] * 3 + ["skipped"]


def test_a_job_on_all_gpus_runs_alone_and_in_its_turn(tmp_path: Path) -> None:
    kinds = [("auto", 1), ("gpu", -1), ("auto", 1), ("auto", 1)]
    jobs = [job(tmp_path / f"j{i}", accelerator=kind, devices=count) for i, (kind, count) in enumerate(kinds)]
    start, notes = run_pool(tmp_path, jobs, Places([{"G": "0"}, {"G": "1"}], {"G": "0,1"}, True))
    assert notes[:4] == ["begin j0", "end j0", "begin j1", "end j1"]
    assert start.environments["j1"] == {"G": "0,1"}
    assert {start.environments["j2"]["G"], start.environments["j3"]["G"]} == {"0", "1"}


def test_two_that_need_one_teacher_wait_for_it_and_leave_their_place_to_others(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    jobs = [job(tmp_path / name, teachers=(teacher,)) for name in ("a", "b")] + [job(tmp_path / "c"), job(teacher)]
    train = f"finish(Path({str(teacher)!r})); note('taught'); time.sleep(0.3); finish()"
    _, notes = run_pool(tmp_path, jobs, Places([{}, {}], {}, False), {"a": train})
    assert all(one.state in ("finished", "skipped") for one in jobs)
    assert jobs[3].state == "skipped"  # the teacher that a trained
    assert notes.index("taught a") < notes.index("begin b")
    assert notes.index("begin c") < notes.index("begin b")


def test_a_run_that_another_process_is_in_is_waited_for(tmp_path: Path) -> None:
    one, other = job(tmp_path / "j0"), job(tmp_path / "j1")
    one.folder.mkdir()
    code = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print(flush=True)
time.sleep(0.5)
open(sys.argv[2], "w").write('{"test/n": 9}')
"""
    command = [sys.executable, "-c", code, str(one.folder / ".lock"), str(one.folder / "metrics.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline()
        assert one.own.held
        start, notes = run_pool(tmp_path, [one, other], Places([{}], {}, False))
    assert start.said.getvalue().count(f"j0 waits for another process, which is running in {one.folder}\n") == 1
    assert one.state == "skipped" and other.state == "finished"
    assert notes == ["begin j1", "end j1"]
    with (one.folder / ".lock").open("w") as lock:  # looking has left no lock
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


# no process outlives it

_SWEEP = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import skinkd.jobs.pool
skinkd.jobs.pool._GRACE = 0.5
from sweep_jobs import job
from test_pool import Places, run_pool
folder = Path({folder!r})
jobs = [job(folder / f"j{{number}}") for number in range(3)]
child = "import subprocess; p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']); "
wait = child + "note(f'pids {{os.getpid()}} {{p.pid}}'); time.sleep(60)"
deaf = "import signal; signal.signal(15, signal.SIG_IGN); " + wait
run_pool(folder, jobs, Places([{{}}, {{}}], {{}}, False), {{"j0": wait, "j1": deaf}})
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_sweep(tmp_path: Path, number: int) -> None:
    """One job ends at SIGTERM and one is deaf to it, each with a process of its own; a third was still waiting."""
    script = _SWEEP.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    notes = tmp_path / "notes"
    sweep = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    try:
        until(lambda: notes.exists() and notes.read_text().count("pids") == 2, 120)
        lines = [line.split() for line in notes.read_text().splitlines() if line.startswith("pids")]
        pids = [int(word) for line in lines for word in line[1:3]]
        assert all(alive(pid) for pid in pids)
        os.killpg(sweep.pid, number)
        assert sweep.wait(60) == (-9 if number == signal.SIGKILL else 128 + number)
        until(lambda: not any(alive(pid) for pid in pids))
        assert "begin j2" not in notes.read_text()
    finally:
        if sweep.poll() is None:
            sweep.kill()


def test_a_sweep_from_end_to_end_writes_its_folder(tmp_path: Path) -> None:
    jobs = [job(tmp_path / f"j{number}", f"seed={number}") for number in range(2)]
    with LocalProcesses() as processes:
        start = Scripts(tmp_path, processes, {"j1": "print('said'); sys.exit(3)"})
        places = Places([{}], {}, False)
        assert run_sweep(jobs, group="a/b", output=tmp_path, metric=METRIC, places=places, start=start) == 1
    folder = tmp_path / "sweeps" / "a_b"
    assert json.loads((folder / "sweep.json").read_text())["group"] == "a/b"
    log = (folder / "logs" / "j1.log").read_text()
    assert "python -m skinkd.train seed=1 group=a/b hydra.mode=RUN\nsaid\n" in log
