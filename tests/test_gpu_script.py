"""``benchmarks/gpu_run.sh`` without a GPU: what it packs runs, each stage alone, and brings its results back."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """What ``pack`` leaves but for wheels, images and weights: this environment has the packages."""
    folder = tmp_path / "gpu"
    (folder / "wheels").mkdir(parents=True)
    kept = ["benchmarks", "conf", "docs/study_trials.md", "pyproject.toml", "skinkd", "tests"]
    with tarfile.open(folder / "source.tar.gz", "w:gz") as tar:
        for name in kept:
            tar.add(ROOT / name, name)
    (folder / "COMMIT").write_text("0000000\n")
    (folder / "run.sh").write_text((ROOT / "benchmarks/gpu_run.sh").read_text())
    return folder


def run(packed: Path, *stages: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "WORK": str(packed.parent / "work"),
        "OUT": str(packed.parent / "out"),
        "PYTHON": sys.executable,
    }
    command = ["bash", str(packed / "run.sh"), "--cpu", *stages]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)


def bench_module() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_bench", ROOT / "benchmarks" / "gpu_bench.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sections_share_the_time_and_what_they_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    bench_of = bench_module()
    clock = [100.0]
    monkeypatch.setattr(bench_of.time, "monotonic", lambda: clock[0])
    bench = bench_of.Bench(until=200.0, device=torch.device("cpu"), tiny=True)
    given = []

    def section(takes: float) -> Any:
        def run(bench: Any) -> None:
            given.append(bench.until - clock[0])
            clock[0] += takes

        return run

    bench_of.run_sections(bench, {section(10): 1, section(0): 3, section(80): 2, section(5): 4})
    # 100 · 1/10, then 90 · 3/9, then 90 · 2/6 as nothing was used; this one took 50 too much
    assert given == pytest.approx([10, 30, 30, 10])


def test_a_row_beyond_the_time_is_named_and_an_error_stops_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    bench_of = bench_module()
    bench = bench_of.Bench(until=time.monotonic() + 5, device=torch.device("cpu"), tiny=False)

    def broken() -> Any:
        raise ValueError("no kernel")

    bench.take("a", "broken", broken, needs=1)
    bench.take("a", "long", broken, needs=60)
    bench.take("a", "whole", lambda: {"ms": 1.5}, needs=1)
    assert bench.rows[0]["error"] == "ValueError: no kernel"
    assert bench.rows[1]["left out"] == "for want of time"
    assert bench.rows[2]["ms"] == 1.5
    table = bench_of.table(bench.rows)
    assert "| a | broken | ValueError: no kernel |" in table and "| a | whole | 1.50 |" in table
    assert "ValueError: no kernel" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_every_stage_in_turn(packed: Path) -> None:
    """Without wheels and weights: the first stage fails, and so does every trial and run of the study; all stages end."""
    result = run(packed, "install", "60", "tests", "300", "bench", "400", "tune", "150", "folds", "150")
    out = packed.parent / "out"
    assert "== install: exit 0" not in result.stdout
    assert "== tests: exit 0" in result.stdout and "PASSED" in (out / "tests.log").read_text()
    assert "== bench: exit 0" in result.stdout
    rows = json.loads((out / "bench.json").read_text())["rows"]
    assert not [row for row in rows if "error" in row]
    assert {row["group"] for row in rows if "left out" not in row} >= {"in memory", "end to end", "step over passes"}
    assert "trials complete" in (out / "tune.log").read_text()
    with tarfile.open(out / "tune.tar.gz") as tar:
        assert {"conf/experiment/lite_study_kd.yaml", "docs/study_trials.md", "tune/kd.csv"} <= set(tar.getnames())
    assert "runs" in (out / "folds.log").read_text()
    assert sorted(path.name for path in out.iterdir()) == [
        *("bench.json", "bench.log", "folds.log", "folds.tar.xz", "install.log", "tests.log"),
        *("tune.log", "tune.tar.gz"),
    ]


def test_a_failure_is_told_while_the_session_goes_on(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import time\ndef test_fails():\n    assert 1 == 2, 'the reason'\ndef test_hangs():\n    time.sleep(200)\n"
    )
    plugins = ["-p", "benchmarks.gpu_failures", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *plugins, "-n", "1", "-vv", "test_it.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as session:
        assert session.stdout
        told = []
        for line in session.stdout:
            told.append(line.strip())
            if "AssertionError: the reason" in line:
                break
        ended = session.poll()
        os.killpg(session.pid, signal.SIGKILL)
    assert ended is None
    assert "test_it.py::test_fails, call, failed after 0 s:" in told


def test_an_unknown_stage_is_refused(packed: Path) -> None:
    result = run(packed, "train", "10")
    assert result.returncode == 2
    assert "no stage train: install, tests, bench, tune, folds" in result.stderr
