"""What is shown of a sweep, while it runs and at its end."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sweep_jobs import METRIC, finish, history, job

from skinkd.jobs.sweep import Job, Stage
from skinkd.jobs.view import SweepView, clock, print_sweep


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
