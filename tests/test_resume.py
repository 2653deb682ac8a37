"""A run that is killed and given again ends with the very numbers of one that was left alone."""

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from train_process import Act, Result, only_run

Trained = Callable[..., Path]
Job = Callable[..., Result]

STEPS = 5  # of an epoch of the tiny runs
KILL = partial(signal.raise_signal, signal.SIGKILL)
STEP = "skinkd.methods.base:Method.combine"
MOMENTS = {
    "in the first save": Act("skinkd.training.trainer:write_checkpoint", 1, KILL),
    "in the save of an epoch": Act("skinkd.training.trainer:write_checkpoint", 3, KILL),
    "between history and checkpoint": Act("skinkd.training.callbacks:EpochLine.on_train_epoch_end", 2, KILL),
    "in validation": Act("skinkd.methods.base:Method.validation_step", 2, KILL),
    "before the test": Act("skinkd.methods.base:Method.test_step", 1, KILL),
    "before the last file": Act("skinkd.runs.folder:RunFolder.write_json", 1, KILL),
}


def check_same(folder: Path, whole: Path) -> None:
    assert folder.name == whole.name
    assert (folder / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()
    assert (folder / "predictions/test.csv").read_bytes() == (whole / "predictions/test.csv").read_bytes()
    ours, theirs = (pd.read_csv(each / "history.csv") for each in (folder, whole))
    assert ours["epoch"].tolist() == list(range(1, len(theirs) + 1))
    times = ["seconds", "images_per_second"]
    pd.testing.assert_frame_equal(ours.drop(columns=times), theirs.drop(columns=times), check_exact=True)
    assert not [path for path in folder.rglob("*") if ".tmp" in path.name]


def test_killed_at_one_awkward_moment_after_another(job: Job, trained: Trained, finished: Path, tmp_path: Path) -> None:
    """Each process is killed, and the next one goes on from what it left."""
    kills = [
        Act("skinkd.training.trainer:write_checkpoint", 1, KILL),  # before there is any checkpoint
        # between the second epoch's row of history.csv and its checkpoint
        Act("skinkd.training.callbacks:EpochLine.on_train_epoch_end", 2, KILL),
        Act("skinkd.methods.base:Method.validation_step", 1, KILL),  # of the second epoch
        Act("skinkd.methods.base:Method.test_step", 1, KILL),
        Act("skinkd.runs.folder:RunFolder.write_json", 1, KILL),  # before the last file
    ]
    epochs = [0, 1, 1, 2, 2]  # in the checkpoint that is left
    for kill, saved in zip(kills, epochs, strict=True):
        assert job(act=kill).code == -signal.SIGKILL
        folder = only_run(tmp_path / "outputs")
        assert not (folder / "metrics.json").exists()
        last = folder / "checkpoints" / "last.ckpt"
        assert saved == (torch.load(last, weights_only=True)["epoch"] + 1 if last.exists() else 0)
    assert trained() == folder
    check_same(folder, finished)


# the test above has all of these but the second, of which test_midepoch.py has the like
@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_an_awkward_moment(trained: Trained, job: Job, finished: Path, tmp_path: Path, moment: str) -> None:
    assert job(act=MOMENTS[moment]).code == -signal.SIGKILL
    folder = only_run(tmp_path / "outputs")
    assert not (folder / "metrics.json").exists()
    assert trained() == folder
    check_same(folder, finished)


# both signals within the first epoch are in test_midepoch.py
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_asked_to_stop(trained: Trained, job: Job, finished: Path, tmp_path: Path, number: int) -> None:
    stopped = job(act=Act(STEP, STEPS + 2, partial(signal.raise_signal, number)))
    folder = only_run(tmp_path / "outputs")
    assert stopped.code == (1 if number == signal.SIGINT else 128 + number)
    assert "the same command goes on from the last checkpoint" in stopped.out
    assert not (folder / "metrics.json").exists()
    assert trained() == folder
    check_same(folder, finished)
