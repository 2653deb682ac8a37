"""``benchmarks/gpu_run.sh`` without a GPU: what it packs runs, each stage alone, and brings its results back."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STUDY = """
mkdir -p $SKINKD_OUTPUT_DIR/run && touch $SKINKD_OUTPUT_DIR/run/last.ckpt && echo {} > $SKINKD_OUTPUT_DIR/run/metrics.json
false
sleep 600
"""


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """What ``pack`` leaves but for wheels, images and weights: this environment has the packages."""
    folder = tmp_path / "gpu"
    (folder / "wheels").mkdir(parents=True)
    kept = ["benchmarks", "conf", "hydra_plugins", "pyproject.toml", "skinkd", "tests"]
    with tarfile.open(folder / "source.tar.gz", "w:gz") as tar:
        for name in kept:
            tar.add(ROOT / name, name)
    (folder / "COMMIT").write_text("0000000\n")
    (folder / "run.sh").write_text((ROOT / "benchmarks/gpu_run.sh").read_text())
    (folder / "study.txt").write_text(STUDY)
    return folder


def run(packed: Path, *stages: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "WORK": str(packed.parent / "work"),
        "OUT": str(packed.parent / "out"),
        "PYTHON": sys.executable,
    }
    command = ["bash", str(packed / "run.sh"), "--cpu", *stages]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.slow
def test_every_stage_in_turn(packed: Path) -> None:
    # without wheels pip has nothing to install, which is what the first stage says; the others go on
    result = run(packed, "install", "60", "bench", "60", "study", "30")
    out = packed.parent / "out"
    assert "== install: exit 0" not in result.stdout
    rows = json.loads((out / "bench.json").read_text())["rows"]
    assert {"in memory", "end to end"} <= {row["group"] for row in rows}
    with tarfile.open(out / "runs.tar.gz") as tar:
        names = tar.getnames()
    assert "outputs/run/metrics.json" in names
    assert not [name for name in names if name.endswith(".ckpt")]
    assert {"1: exit 0", "2: exit 1", "3: exit 124"} <= set(result.stdout.splitlines())
    assert sorted(path.name for path in out.iterdir()) == [
        "bench.json",
        "bench.log",
        "install.log",
        "runs.tar.gz",
        "study.log",
    ]


def test_an_unknown_stage_is_refused(packed: Path) -> None:
    result = run(packed, "train", "10")
    assert result.returncode == 2
    assert "no stage train: install, tests, bench, study" in result.stderr
