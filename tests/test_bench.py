"""The benchmarks of ``make bench``: how they time, share the time and show it; and a dry run of every section."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import __main__ as command
from bench.checkouts import kind_of
from bench.networks import all_methods, alone, batch_of, configuration, method_of, precision_of
from bench.passes import networks_known, passes_alone, whole_step
from bench.sections import ON_GPU, SECTIONS, chosen
from bench.session import Bench, Section, run_sections
from bench.table import WIDTH, Column, markdown, terminal
from bench.timing import Timer, peak_gib, ratio

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
COLUMNS = (Column("name", "name"), Column("ms", "ms", 2), Column("rate", "images/s", 0))


def session(seconds: float = 100, *, quick: bool = False) -> Bench:
    timer = Timer(CPU, clock="wall", quick=quick)
    return Bench(timer=timer, until=time.monotonic() + seconds, scratch=Path("nowhere"))


class Clock:
    """A clock that steps move, in the place of the machine's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr("bench.timing.time.perf_counter", lambda: self.seconds)

    def step(self, *takes: float) -> Any:
        rest: Iterator[float] = iter(takes)

        def run() -> None:
            self.seconds += next(rest)

        return run


# ---------------------------------------------------------------- timing


def test_steps_take_turns_and_the_warm_up_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    timer = Timer(CPU, clock="wall")
    timer._clock = lambda: clock.seconds
    called = []

    def named(name: str, step: Any) -> Any:
        return lambda: (called.append(name), step())

    steps = {"a": named("a", clock.step(9, 1, 2, 3)), "b": named("b", clock.step(9, 4, 5, 6))}
    taken = timer.in_turn(steps, seconds=2)
    assert taken == {"a": [1, 2, 3], "b": [4, 5, 6]}
    assert "".join(called) == "ab" + "ab" + "ba" + "ab"
    assert ratio(taken["b"], taken["a"]) == 2.5  # of 4, 2.5 and 2


def test_a_short_step_is_repeated_within_a_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    timer = Timer(CPU, clock="wall")
    timer._clock = lambda: clock.seconds
    taken = timer.in_turn({"a": clock.step(*[0.01] * 1000)}, seconds=0.1)["a"]
    assert taken == pytest.approx([0.01] * 3)
    assert clock.seconds == pytest.approx(0.01 * (2 + 3 * 5))


def test_the_peak_is_that_of_the_call_alone() -> None:
    kept = torch.ones(40, 2**20)  # 160 MiB that are held before

    def step() -> None:
        torch.ones(80, 2**20).sum()

    peak = peak_gib(step, CPU)
    if peak is None:
        pytest.skip("this system does not tell a process's peak memory")
    assert peak == pytest.approx(0.3125, abs=0.06)
    assert kept[0, 0] == 1


# ---------------------------------------------------------------- rows and sections


def test_sections_share_the_time_and_what_they_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("bench.session.time.monotonic", lambda: clock[0])
    bench = session(quick=True)
    bench.until = 200.0
    given = []

    def section(share: float, takes: float) -> Section:
        def run(bench: Bench) -> None:
            given.append(bench.until - clock[0])
            clock[0] += takes

        return Section("", "", COLUMNS, share, run)

    sections = {"a": section(1, 10), "b": section(3, 0), "c": section(2, 80), "d": section(4, 5)}
    assert run_sections(bench, sections, lambda *_: None)
    # 100 · 1/10, then 90 · 3/9, then 90 · 2/6 as nothing was used; this section took 50 too much
    assert given == pytest.approx([10, 30, 30, 10])


def test_a_row_beyond_the_time_is_named_and_an_error_stops_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    bench = session(5)

    def broken() -> Any:
        raise ValueError("no kernel")

    bench.take({"name": "broken"}, broken, needs=1)
    bench.take({"name": "long"}, broken, needs=60)
    bench.take({"name": "whole"}, lambda: {"ms": 1.5}, needs=1)
    assert bench.rows[0]["error"] == "ValueError: no kernel"
    assert bench.rows[1]["left out"] == "for want of time"
    assert bench.rows[2]["ms"] == 1.5
    assert "ValueError: no kernel" in capsys.readouterr().err


def test_rows_are_written_when_a_section_is_stopped() -> None:
    bench, kept = session(), {}

    def measure(bench: Bench) -> None:
        bench.take({"name": "first"}, lambda: {"ms": 1})
        raise SystemExit

    with pytest.raises(SystemExit):
        run_sections(bench, {"a": Section("", "", COLUMNS, 1, measure)}, lambda name, rows: kept.update({name: rows}))
    assert [row["name"] for row in kept["a"]] == ["first"]


ROWS = [
    {"name": "short", "ms": 1.234, "rate": 45678.9},
    {"name": "a longer name", "error": "ValueError: " + "long " * 40},
    {"name": "third", "left out": "for want of time"},
]


def test_a_table_on_the_terminal() -> None:
    lines = terminal(ROWS, COLUMNS).splitlines()
    assert lines[0] == "name             ms  images/s"
    assert lines[2] == "short          1.23    45,679"
    assert lines[3].startswith("a longer name") and "ValueError: long" in lines[3] and lines[3].endswith("…")
    assert lines[4].split("  ")[0] == "third" and lines[4].endswith("for want of time")
    assert max(map(len, lines)) <= WIDTH


def test_a_table_in_markdown() -> None:
    lines = markdown(ROWS, COLUMNS).splitlines()
    assert lines[:3] == ["| name | ms | images/s |", "| --- | ---: | ---: |", "| short | 1.23 | 45,679 |"]
    assert lines[3].startswith("| a longer name | ValueError: long")
    assert lines[4] == "| third | for want of time |  |"


# ---------------------------------------------------------------- the command


def test_the_sections_of_a_plain_command() -> None:
    assert set(chosen("cpu", against=False)) == set(SECTIONS) - {"in_memory", "published"}
    assert "published" in chosen("cpu", against=True)
    assert chosen("cuda", against=False) == list(ON_GPU)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--sections", "methods,loaders"], "--sections has loaders, which is none of"),
        (["--sections", "published"], "--sections published needs --against <checkout>"),
        (["--against", "tests"], "tests has neither"),
    ],
)
def test_wrong_arguments_are_a_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        command.arguments_of(words)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_checkout_is_known_by_its_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has neither"):
        kind_of(tmp_path)
    for name in ("main.py", "Net.py"):
        (tmp_path / name).touch()
    assert kind_of(tmp_path) == "tsskd"


def test_a_section_that_is_chosen_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--quick", "--sections", "losses", "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert list(found["sections"]) == ["losses"]
    assert {"date", "commit", "processor", "cores", "threads", "torch", "clock"} <= set(found["machine"])
    rows = found["sections"]["losses"]["rows"]
    assert rows and all(row["ms"] > 0 for row in rows)
    page = (tmp_path / "out" / "bench.md").read_text()
    assert "| rkd_angle |" in page and "Machine: " in page
    assert "rkd_angle" in capsys.readouterr().out


# ---------------------------------------------------------------- passes


TINY = ["backbone=timm", "backbone.name=test_resnet.r160_in1k"]
TINY_TEACHER = ["method.teacher.run.backbone.name=test_efficientnet.r160_in1k"]
HAVE_TEACHER = ("at", "crd", "d_kd", "dist", "dkd", "fitnet", "kd", "reviewkd", "rkd", "ssdkd")
OWN_NETWORKS = ("mskd", "mskd_teacher")  # hybrids, which are slow to build


@pytest.mark.parametrize("name", sorted(set(all_methods()) - set(OWN_NETWORKS)))
def test_passes_reach_what_the_step_trains(name: str) -> None:
    """A parameter has a gradient from the passes alone where it has a gradient from the step, and nowhere else."""
    words = [f"method={name}", "data=synthetic", "data.image_size=64", "data.batch_size=4", *TINY]
    config = configuration(*words, *(TINY_TEACHER if name in HAVE_TEACHER else []))
    method, config = method_of(config, CPU)
    batch, precision = batch_of(method, config, CPU), precision_of(config, CPU)
    reached = []
    with alone(method):
        for run in (whole_step, whole_step, passes_alone):  # the first step of a method may have fewer terms
            run(method, batch, precision)
            reached.append({key for key, value in method.named_parameters() if value.grad is not None})
    assert reached[1] == reached[2] and reached[1]


def test_known_outputs_leave_the_heads_and_the_losses() -> None:
    """The network's parameters get no gradient, the heads' do; afterwards the network is as before."""
    config = configuration("method=swskd", "data=synthetic", "data.image_size=64", "data.batch_size=4", *TINY)
    method, config = method_of(config, CPU)
    batch, precision = batch_of(method, config, CPU), precision_of(config, CPU)

    def reached() -> set[str]:
        with alone(method):
            whole_step(method, batch, precision)
        return {key.split(".")[0] for key, value in method.named_parameters() if value.grad is not None}

    with networks_known(method, batch):
        assert reached() == {"heads", "attention", "gate_classifier"}
    assert reached() == {"network", "heads", "attention", "gate_classifier"}


def test_the_steps_of_all_methods_are_measured() -> None:
    found = all_methods()
    assert sorted(found) == sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
    assert found[:4] == ["supervised", "swskd", "tsskd", "ssdkd"] and found[-1] == "mskd_teacher"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_dry_run_of_every_section(tmp_path: Path) -> None:
    words = [
        "--quick",
        "--sections",
        ",".join(name for name in SECTIONS if name != "published"),
        "--out",
        str(tmp_path),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "bench.json").read_text())["sections"]
    assert list(found) == [name for name in SECTIONS if name != "published"]
    for name, section in found.items():
        assert section["rows"] and not [row for row in section["rows"] if "error" in row or "left out" in row], name
    assert max(map(len, done.stdout.splitlines())) <= 120
