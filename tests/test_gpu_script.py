"""``benchmarks/gpu_run.sh`` without a GPU: what it packs runs, each stage alone, and brings its results back."""

import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from bench.sections import ON_GPU

ROOT = Path(__file__).parent.parent


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """What ``pack`` leaves but for wheels, images and weights: this environment has the packages."""
    folder = tmp_path / "gpu"
    (folder / "wheels").mkdir(parents=True)
    kept = ["benchmarks", "conf", "docs/study_trials.md", "pyproject.toml", "skinkd", "tests"]
    with tarfile.open(folder / "source.tar.gz", "w:gz", compresslevel=1) as tar:
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


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_every_stage_in_turn(packed: Path) -> None:
    """Without wheels and weights: the first stage fails, and so does every trial and run of the study; all stages end."""
    result = run(packed, "install", "60", "tests", "300", "bench", "400", "tune", "150", "folds", "150")
    out = packed.parent / "out"
    assert "== install: exit 0" not in result.stdout
    assert "== tests: exit 0" in result.stdout and "PASSED" in (out / "tests.log").read_text()
    assert "== bench: exit 0" in result.stdout
    sections = json.loads((out / "bench.json").read_text())["sections"]
    assert not [row for section in sections.values() for row in section["rows"] if "error" in row]
    assert [name for name, section in sections.items() if section["rows"]] == list(ON_GPU)
    assert "trials complete" in (out / "tune.log").read_text()
    with tarfile.open(out / "tune.tar.gz") as tar:
        assert {"conf/experiment/lite_study_kd.yaml", "docs/study_trials.md", "tune/kd.csv"} <= set(tar.getnames())
    assert "runs" in (out / "folds.log").read_text()
    assert sorted(path.name for path in out.iterdir()) == [
        *("bench.json", "bench.log", "folds.log", "folds.tar.xz", "install.log", "tests.log"),
        *("tune.log", "tune.tar.gz"),
    ]


@pytest.mark.slow
def test_remedies_come_back(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARIANTS", "remedies --regime scratch --seeds 0 --rows supervised")
    (packed.parent / "work").mkdir()
    run(packed, "install", "60")  # fails at the wheels, with the source unpacked
    result = run(packed, "variants", "200")
    assert "== variants: exit 0" in result.stdout
    lines = (packed.parent / "out" / "remedies.csv").read_text().splitlines()
    assert sum(line.startswith("scratch,supervised,") for line in lines) == 2


def test_a_failure_is_told_while_the_session_goes_on(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import time\ndef test_fails():\n    assert 1 == 2, 'the reason'\ndef test_hangs():\n    time.sleep(200)\n"
    )
    plugins = ["-p", "benchmarks.gpu_failures", "-p", "no:cacheprovider", "-p", "xdist"]
    command = [sys.executable, "-m", "pytest", *plugins, "-n", "1", "-vv", "test_it.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
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
    assert "no stage train: install, tests, bench, tune, folds, variants" in result.stderr
