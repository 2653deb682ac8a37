"""What a sweep decides by itself: where and in what order jobs run, what they are called, how long they take; and that no
process outlives it. Here jobs are short scripts; real trainings are in test_multirun.py."""

import fcntl
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from skinkd.config.overrides import check_overrides
from skinkd.errors import UserError
from skinkd.jobs.places import Places, find_places
from skinkd.jobs.pool import Pool, last_error, run_sweep
from skinkd.jobs.processes import LocalProcess, LocalProcesses
from skinkd.jobs.sweep import Job, Stage, distinct, group_name, labels, progress, seconds_left, stage_of, write_sweep
from skinkd.jobs.view import SweepView, clock, print_sweep

CONF = Path(__file__).parents[2] / "conf"
METRIC = "val/auroc_macro"


def config(folder: Path, *, accelerator: str = "cpu", devices: int = 1, **other: Any) -> dict[str, Any]:
    return {
        "force": False,
        "group": None,
        "run_dir": str(folder),
        "paths": {},
        "method": {"name": "m"},
        "backbone": {"name": "b"},
        "data": {"image_size": 8},
        "trainer": {"accelerator": accelerator, "devices": devices, "max_epochs": 4},
        "evaluation": {"test": True},
        **other,
    }


def job(folder: Path, *overrides: str, teachers: tuple[Path, ...] = (), **settings: Any) -> Job:
    own = config(folder, **settings)
    stages = [stage_of(path, own) for path in teachers]
    return Job(list(overrides), own, stage_of(folder, own), stages, label=" ".join(overrides) or folder.name)


def finish(folder: Path, **numbers: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(
        json.dumps({f"test/{name}": value for name, value in {"n": 9, **numbers}.items()})
    )


def history(folder: Path, seconds: list[float], value: float = 0.5) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{number},{one},{value}" for number, one in enumerate(seconds, start=1)]
    (folder / "history.csv").write_text("\n".join([f"epoch,seconds,{METRIC}", *rows]) + "\n")


# where jobs run


def trainer(accelerator: str, devices: int = 1) -> dict[str, Any]:
    return {"trainer": {"accelerator": accelerator, "devices": devices}}


AUTO, CPU, DDP, DDP_CPU = trainer("auto"), trainer("cpu"), trainer("gpu", -1), trainer("cpu", 2)


@pytest.mark.parametrize(
    ("devices", "configs", "gpus", "expected"),
    [
        ("auto", [AUTO], [], [None]),
        ("auto", [AUTO], ["0", "1"], ["0", "1"]),
        ("auto", [AUTO, DDP], ["4", "GPU-abc"], ["4", "GPU-abc"]),
        ("auto", [DDP], ["0", "1"], [None]),
        ("auto", [CPU, DDP_CPU], ["0", "1"], [None]),
        (1, [CPU], [], [None]),
        (3, [AUTO], ["4", "6"], ["4", "6", "4"]),
        ([1, 0, 1], [AUTO], ["4", "6"], ["6", "4", "6"]),
    ],
)
def test_places(devices: Any, configs: list[dict[str, Any]], gpus: list[str], expected: list[str | None]) -> None:
    places = find_places(devices, configs, gpus=gpus, cores=8)
    assert [place.get("CUDA_VISIBLE_DEVICES") for place in places.places] == expected


def test_a_job_on_all_gpus_sees_those_of_the_list_and_else_what_the_user_sees() -> None:
    assert find_places([1, 0, 1], [DDP], gpus=["4", "6"], cores=8).whole == {"CUDA_VISIBLE_DEVICES": "6,4"}
    assert find_places("auto", [DDP], gpus=["4", "6"], cores=8).whole == {}


@pytest.mark.parametrize(("jobs", "cores", "threads"), [(1, 8, None), (2, 8, "4"), (3, 8, "2"), (9, 8, "1")])
def test_jobs_at_once_share_the_cores(jobs: int, cores: int, threads: str | None) -> None:
    places = find_places(jobs, [CPU], gpus=[], cores=cores).places
    assert len(places) == jobs
    assert {place.get("OMP_NUM_THREADS") for place in places} == {threads}


@pytest.mark.parametrize("devices", [0, -1, True, False, 1.5, "two", [], [0, "a"], [True], None, {}])
def test_devices_that_are_none(devices: Any) -> None:
    with pytest.raises(UserError, match=r"sweep\.devices=.* is not a valid value; write auto"):
        find_places(devices, [CPU], gpus=["0"], cores=2)


@pytest.mark.parametrize(("gpus", "said"), [([], "no GPUs are visible"), (["0", "1"], "2 GPUs are visible")])
def test_a_gpu_that_is_not_there(gpus: list[str], said: str) -> None:
    with pytest.raises(UserError, match=rf"sweep\.devices=\[0, 2\] names GPU \d, but {said}"):
        find_places([0, 2], [AUTO], gpus=gpus, cores=2)


# what they are called

override = st.builds(
    lambda key, value: f"{key}={value}",
    st.sampled_from(["seed", "method", "a.b.rate", "a.c.rate", "optim.lr", "group", "force", "sweep.devices"]),
    st.integers(0, 3),
)


@given(st.lists(st.lists(override, max_size=5, unique_by=lambda one: one.split("=")[0]), min_size=2, max_size=6))
def test_labels_say_what_differs_and_nothing_else(jobs: list[list[str]]) -> None:
    shown = labels(jobs)
    silent = ("group", "force", "sweep.devices")
    telling = [frozenset(one for one in job if one.split("=")[0] not in silent) for job in jobs]
    for i, first in enumerate(telling):
        assert len(shown[i].split()) == len(first - frozenset.intersection(*telling))
        for j, second in enumerate(telling):
            if {one.split("=")[0] for one in first} == {one.split("=")[0] for one in second}:
                assert (sorted(shown[i].split()) == sorted(shown[j].split())) == (first == second)


def test_labels_take_the_last_part_of_a_key_where_it_is_the_only_such() -> None:
    same = ["data=ham10000", "sweep.devices=2"]
    assert labels([[*same, "optim.lr=1", "seed=0"], [*same, "optim.lr=2", "seed=0"]]) == ["lr=1", "lr=2"]
    assert labels([["a.x=1", "b.x=1"], ["a.x=2", "b.x=2"]]) == ["a.x=1 b.x=1", "a.x=2 b.x=2"]
    assert labels([["seed=1"]]) == [""]


def test_the_name_of_a_sweep_is_of_its_jobs_not_of_where_they_run() -> None:
    jobs = [["method=kd", "seed=0"], ["method=kd", "seed=1"]]
    name = group_name(jobs)
    assert re.fullmatch(r"sweep-[0-9a-f]{8}", name)
    assert group_name([[*one, "sweep.devices=2", "force=true"] for one in jobs]) == name
    assert len({name, group_name(jobs[:1]), group_name(jobs[::-1]), group_name([*jobs, ["method=kd"]])}) == 4


def test_jobs_that_are_one_run_run_once_and_different_ones_need_different_folders(tmp_path: Path) -> None:
    same = [job(tmp_path / "a", f"logger={name}") for name in ("csv", "none")]
    (only,) = distinct(same)
    assert only is same[0] and only.repeats == ["logger=none"]
    other = job(tmp_path / "a", "seed=1", seed=1)
    with pytest.raises(UserError, match="would be the run folder of two jobs, 'logger=csv' and 'seed=1'"):
        distinct([same[0], other])


@pytest.mark.parametrize("path", sorted((CONF / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_stored_sweep_composes(path: Path) -> None:
    hydra = yaml.safe_load(path.read_text())["hydra"]
    assert hydra["mode"] == "MULTIRUN"
    check_overrides("train", [f"sweep={path.stem}"])
    check_overrides("train", ["-m", *(f"{key}={values}" for key, values in hydra["sweeper"]["params"].items())])


def test_the_sweep_for_wandbs_agent_names_settings_that_there_are() -> None:
    sweep = yaml.safe_load((CONF.parent / "docs" / "wandb_sweep.yaml").read_text())
    given = {name: one.get("values") or [one["value"]] for name, one in sweep["parameters"].items()}
    check_overrides("train", ["-m", *(f"{name}={','.join(map(str, values))}" for name, values in given.items())])
    assert sweep["metric"]["name"].startswith("val/") and sweep["program"] == "skinkd.train"


# the sweep folder, and how far jobs are


def test_the_sweep_file_keeps_the_groups_earlier_runs(tmp_path: Path) -> None:
    folder = tmp_path / "sweeps" / "g"
    a, b, waiting = (job(tmp_path / name, f"seed={name}") for name in ("a", "b", "waiting"))
    outside = job(tmp_path.parent / "elsewhere" / "run", "seed=o")
    a.folder.mkdir()
    write_sweep(folder, "g", [a, waiting], tmp_path)
    write_sweep(folder, "g", [b, outside], tmp_path)
    stored = json.loads((folder / "sweep.json").read_text())
    assert stored["group"] == "g"
    assert [one["folder"] for one in stored["jobs"]] == ["a", "waiting", "b", str(outside.folder)]
    assert stored["jobs"][2] == {"overrides": ["seed=b"], "folder": "b", "name": "b"}


def test_a_run_without_the_test_scores_that_are_asked_for_is_not_finished(tmp_path: Path) -> None:
    untested, tested = Stage(tmp_path, 4, (), False), Stage(tmp_path, 4, (), True)
    assert not untested.finished
    (tmp_path / "metrics.json").write_text('{"val/accuracy": 0.5}')
    assert untested.finished and not tested.finished
    (tmp_path / "metrics.json").write_text('{"val/accuracy": 0.5, "test/n": 9}')
    assert untested.finished and tested.finished


def test_progress_is_what_the_history_says(tmp_path: Path) -> None:
    assert progress(tmp_path, METRIC).epochs == 0
    history(tmp_path, [1.5, 2.0], 0.75)
    assert progress(tmp_path, METRIC) == type(progress(tmp_path, METRIC))(2, 3.5, 0.75)
    assert progress(tmp_path, "val/none").value is None


def test_a_run_that_was_not_tested_is_finished_only_for_who_asks_for_no_test(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"val/n": 9}')
    assert [Stage(tmp_path, 4, (), test=test).finished for test in (False, True)] == [True, False]


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_time_left(tmp_path: Path, at_once: int) -> None:
    jobs = [job(tmp_path / str(number)) for number in range(5)]
    assert seconds_left(jobs, at_once=at_once, metric=METRIC) is None
    history(jobs[0].folder, [10.0] * 4)
    finish(jobs[0].folder)
    history(jobs[1].folder, [20.0] * 2)
    jobs[0].state, jobs[1].state = "finished", "running"
    # 2 epochs of 20 s are left of the second, and 4 of (10 + 20) / 2 s of each waiting job
    expected = {1: 40 + 3 * 60, 2: max(40 + 60, 60 + 60), 3: max(40 + 60, 60, 60)}
    assert seconds_left(jobs, at_once=at_once, metric=METRIC) == pytest.approx(expected[at_once])


def test_a_shared_teacher_is_counted_once_and_a_finished_one_not_at_all(tmp_path: Path) -> None:
    jobs = [job(tmp_path / name, teachers=(tmp_path / "teacher",)) for name in "ab"]
    history(jobs[0].folder, [1.0])
    assert seconds_left(jobs, at_once=1, metric=METRIC) == pytest.approx(4 + 3 + 4)
    finish(tmp_path / "teacher")
    assert seconds_left(jobs, at_once=1, metric=METRIC) == pytest.approx(3 + 4)


@pytest.mark.parametrize(
    ("printed", "code", "expected"),
    [
        ("epoch 1\nerror: too big; make it smaller\nstopped before the end\n", 2, "too big; make it smaller"),
        ("error: no teacher data\nerror: the teacher's training ended with exit code 2\n", 2, "no teacher data"),
        (
            "Traceback\n  File x\nValueError: bad\nepoch\ntorch.cuda.OutOfMemoryError: full\n",
            1,
            "torch.cuda.OutOfMemoryError: full",
        ),
        ("KeyError: 'x'\nRuntimeError: [gloo/pair.cc:561] Connection closed by peer\n", 1, "KeyError: 'x'"),
        ("epoch 1\n", -signal.SIGKILL, "killed by SIGKILL, perhaps because the machine ran out of memory"),
        ("epoch 1\n", -signal.SIGTERM, "killed by SIGTERM"),
        ("epoch 1\nodd\n", 7, "odd"),
        ("", 7, "ended with exit code 7 and printed nothing"),
    ],
)
def test_what_a_failed_job_said(tmp_path: Path, printed: str, code: int, expected: str) -> None:
    log = tmp_path / "log"
    before = "error: of an earlier attempt\n"
    log.write_text(before + printed)
    assert last_error(log, len(before), code) == expected


# running


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


@pytest.mark.parametrize("width", [1, 2, 3])
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
    train = f"finish(Path({str(teacher)!r})); note('taught'); time.sleep(0.5); finish()"
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
time.sleep(1)
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
skinkd.jobs.pool._GRACE = 1.0
from test_pool import Places, job, run_pool
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


# what is shown


def shown(jobs: list[Job], **settings: Any) -> str:
    console = Console(file=io.StringIO(), highlight=False, **settings)
    with SweepView(jobs, at_once=2, metric=METRIC, console=console) as view:
        view.update()
    return console.file.getvalue()  # type: ignore[attr-defined]


def a_sweep(folder: Path) -> list[Job]:
    long = "weights=" + "x" * 60
    states = ["finished", "failed", "running", "teacher", "skipped", "waiting"]
    jobs = [job(folder / state, f"seed={number}", long) for number, state in enumerate(states)]
    for one, state in zip(jobs, states, strict=True):
        one.state = state
    for number in (0, 4):
        finish(jobs[number].folder, accuracy=0.5, auroc_macro=0.75)
    history(jobs[2].folder, [5.0, 5.0], 0.625)
    jobs[2].began, jobs[2].seconds = 0.0, 61.0
    jobs[3].teachers.append(Stage(folder / "t", 9, (), True))
    history(folder / "t", [1.0] * 3)
    jobs[1].error, jobs[1].code = "no such thing", 2
    return jobs


def test_the_live_table_fits_eighty_columns(tmp_path: Path) -> None:
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(a_sweep(tmp_path), width=80, height=30, force_terminal=True))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    (running,) = {line for line in text.splitlines() if " running " in line and "seed" in line}
    assert {"2/4", "0.625", "1:01"} <= set(running.split())
    assert re.search(r"seed=3 .*teacher +3/9", text)
    assert "1 waiting, 1 teacher, 1 running, 1 finished, 1 skipped, 1 failed, about 0:" in text


def test_a_low_terminal_shows_those_that_run(tmp_path: Path) -> None:
    jobs = [job(tmp_path / str(number), f"seed={number}") for number in range(40)]
    jobs[30].state = "running"
    text = shown(jobs, width=80, height=12, force_terminal=True)
    assert "seed=30" in text and "(32 not shown)" in text


def test_a_file_gets_a_line_for_each_change_and_no_control_codes(tmp_path: Path) -> None:
    text = shown(a_sweep(tmp_path), width=80)
    assert "\x1b" not in text and "\r" not in text
    lines = text.splitlines()
    assert len(lines) == 5  # all but the waiting one, each once though updated twice
    assert lines[1].startswith("job 2 of 6: seed=1 ") and lines[1].endswith(": failed after 0:00: no such thing")


def test_the_last_table(tmp_path: Path) -> None:
    jobs = a_sweep(tmp_path)
    console = Console(file=io.StringIO(), width=80)
    folder = tmp_path / "sweeps" / "g"
    print_sweep(jobs, folder=folder, logs=dict.fromkeys(jobs, tmp_path / "log"), console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    table = text[: text.index("jobs finished")]
    assert max(len(line) for line in table.splitlines()) <= 80
    assert re.search(r"seed=0 .* 0\.500 +- +- +0\.750\n", table) and re.search(r"seed=1 .* failed", table)
    assert "2 of 6 jobs finished; group g" in text
    assert f"(exit code 2)\n  no such thing\n  log: {tmp_path / 'log'}" in text
    assert text.rstrip().endswith(f"\npython -m skinkd.compare {folder}")


def test_untested_jobs_show_their_validation(tmp_path: Path) -> None:
    one = job(tmp_path / "a", "seed=0")
    one.folder.mkdir()
    (one.folder / "metrics.json").write_text('{"val/accuracy": 0.25}')
    one.state = "finished"
    console = Console(file=io.StringIO(), width=80)
    print_sweep([one], folder=tmp_path, logs={}, console=console)
    assert re.search(r"validation .*\n-+\nseed=0 +0\.250", console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (187, "3:07"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


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
