"""A run that is killed and given again ends with the very numbers of one that was left alone."""

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor
from train_process import Act, Result, metrics_of, only_run

from skinkd.methods.base import Method

Trained = Callable[..., Path]
Job = Callable[..., Result]

EPOCHS, STEPS = 2, 5  # of the tiny runs
KILL = partial(signal.raise_signal, signal.SIGKILL)
STEP = "skinkd.methods.base:Method.combine"
# together they have all that a checkpoint must hold: of each kind of network, optimiser, average, sampler and precision
WITH_STATE = [
    ["augment.mix=mixup", "augment.mix_alpha=0.4", "loss.name=focal", "ema.decay=0.9"],
    ["method=tsskd", "backbone.drop_rate=0.2", "method.warmup_epochs=2", "sampler=balanced"],
    [
        "method=swskd",
        "data.image_size=64",
        "backbone.drop_rate=0.2",
        "optim=sgd_plateau",
        "early_stopping.patience=3",
        "precision=bf16",
        "ema.decay=0.5",
    ],
]
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


@pytest.mark.parametrize("overrides", WITH_STATE, ids=" ".join)
def test_killed_within_the_last_epoch(trained: Trained, job: Job, tmp_path: Path, overrides: list[str]) -> None:
    killed = job(*overrides, act=Act(STEP, (EPOCHS - 1) * STEPS + 3, KILL))
    assert killed.code == -signal.SIGKILL
    folder = only_run(tmp_path / "outputs")
    assert not (folder / "metrics.json").exists()
    assert len(pd.read_csv(folder / "history.csv")) == EPOCHS - 1

    steps: list[int] = []
    combine = Method.combine

    def noted(self: Method, **terms: Callable[[], Tensor]) -> Tensor:
        steps.append(self.trainer.global_step)
        return combine(self, **terms)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Method, "combine", noted)
        assert trained(*overrides) == folder
    assert steps == list(range((EPOCHS - 1) * STEPS, EPOCHS * STEPS))  # it went on, it did not begin again
    check_same(folder, trained(*overrides, output=tmp_path / "whole"))


# test_midepoch.py has kills within later saves
@pytest.mark.parametrize(
    "moment",
    [pytest.param(one, marks=pytest.mark.slow) if one == "in the save of an epoch" else one for one in MOMENTS],
)
def test_killed_at_an_awkward_moment(trained: Trained, job: Job, finished: Path, tmp_path: Path, moment: str) -> None:
    assert job(act=MOMENTS[moment]).code == -signal.SIGKILL
    folder = only_run(tmp_path / "outputs")
    assert not (folder / "metrics.json").exists()
    assert trained() == folder
    check_same(folder, finished)


def test_killed_again_and_again(job: Job, finished: Path, tmp_path: Path) -> None:
    for call in (STEPS, STEPS + 3, 2):  # before the first checkpoint, within the second epoch, and there again
        assert job(act=Act(STEP, call, KILL)).code == -signal.SIGKILL
    assert job().code == 0
    check_same(only_run(tmp_path / "outputs"), finished)


# Ctrl-C within an epoch is in test_midepoch.py
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)], ids=["SIGTERM", "Ctrl-C"]
)
def test_asked_to_stop(trained: Trained, job: Job, finished: Path, tmp_path: Path, number: int) -> None:
    stopped = job(act=Act(STEP, STEPS + 2, partial(signal.raise_signal, number)))
    folder = only_run(tmp_path / "outputs")
    assert stopped.code == (1 if number == signal.SIGINT else 128 + number)
    assert "the same command goes on from the last checkpoint" in stopped.out
    assert not (folder / "metrics.json").exists()
    assert trained() == folder
    check_same(folder, finished)


def test_a_resumed_run_keeps_its_best_checkpoint(job: Job, trained: Trained, tmp_path: Path) -> None:
    """The best epoch lies before the kill: the resumed run must not select among its own epochs alone."""
    # each later epoch destroys the network
    settings = [
        "trainer.max_epochs=3",
        "optim=adam_multistep",
        "optim.lr=1e-4",
        "optim.schedule.at=[0.5]",
        "optim.schedule.factor=1e5",
        "monitor.metric=val/loss",
        "monitor.mode=min",
    ]
    assert job(*settings, act=Act(STEP, 2 * STEPS + 1, KILL)).code == -signal.SIGKILL
    folder = trained(*settings)
    history = pd.read_csv(folder / "history.csv").set_index("epoch")
    best = metrics_of(folder)["best_epoch"]
    assert best == history["val/loss"].idxmin() < 3
    assert torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["epoch"] == best - 1
    assert metrics_of(folder)["val/loss"] == pytest.approx(history.loc[best, "val/loss"], rel=1e-6)
