"""A package of the user's own, allowed on the command line, is allowed in the processes that a command starts too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from test_extending import SMALL, data, own, python  # noqa: F401

pytestmark = pytest.mark.slow

WORDS = ("data=moles", "backbone=narrow", "backbone.pretrained=false", "augment=shadow")


def test_a_teacher_of_ones_own_is_trained(own: Path, data: Path) -> None:  # noqa: F811
    """The teacher's process reads a stored configuration, which can allow nothing: the command's word goes with it."""
    teacher = (
        "method@method.teacher.run.method=confidence",
        "backbone@method.teacher.run.backbone=narrow",
        "method.teacher.run.backbone.pretrained=false",
    )
    words = ("--config-dir", "conf", *WORDS, "method=kd", *teacher, *SMALL)
    python("skinkd.train", "allow_targets=mine", *words, folder=own, data=data)
    (student,) = own.glob("outputs/kd-moles-*")
    (trained,) = own.glob("outputs/confidence-moles-*")
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["method"]["_target_"].startswith("mine.") and config["data"]["table"]["_target_"].startswith("mine.")
    assert "teacher/test/accuracy" in json.loads((student / "metrics.json").read_text())
    # without the word neither the finished teacher nor the student is taken for the user's own
    refused = subprocess.run(
        [sys.executable, "-m", "skinkd.train", *words, "seed=5"],
        cwd=own,
        env={**os.environ, "SKINKD_DATA_DIR": str(data), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert refused.returncode == 2 and "add allow_targets=mine to the command" in refused.stderr


def test_a_trial_of_ones_own_is_trained(own: Path, data: Path) -> None:  # noqa: F811
    words = ("--config-dir", "conf", *WORDS, "method=confidence", *SMALL)
    space = ("tune.trials=1", "tune.pruner.name=none", "tune.poll_seconds=0.5", "tune.space={optim.lr: [0.01, 0.02]}")
    python("skinkd.tune", "allow_targets=mine", *words, *space, folder=own, data=data)
    (study,) = own.glob("outputs/tune/confidence-moles-*")
    trials = pd.read_csv(study / "trials.csv")
    assert trials["state"].tolist() == ["complete"]
    assert "allow_targets=mine" in yaml.safe_load((study / "best.yaml").read_text())["command"]
