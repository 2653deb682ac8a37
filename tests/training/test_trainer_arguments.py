"""Lightning's Trainer arguments: those of the list do what they say, and the others are refused by name."""

import inspect
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import pytest

from skinkd.config.ranges import range_of
from skinkd.config.trainer_arguments import (
    ARGUMENTS,
    CHOICES,
    REFUSED,
    check_trainer,
    image_limits,
    lightning_arguments,
)
from skinkd.errors import UserError

PLAIN: dict[str, Any] = {"max_epochs": 4, "limit_train_batches": 1.0}


def history(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "history.csv")


def metrics(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def test_every_argument_of_lightning_works_or_is_refused() -> None:
    theirs = set(inspect.signature(L.Trainer.__init__).parameters) - {"self"}
    assert {*ARGUMENTS, *REFUSED} == theirs
    assert not set(ARGUMENTS) & set(REFUSED)
    with_words = {*CHOICES, "fast_dev_run", "max_time", "sync_batchnorm", "benchmark", "detect_anomaly"}
    without_range = {name for name in ARGUMENTS if range_of(f"trainer.{name}") is None}
    assert without_range == with_words | {"enable_progress_bar"}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_argument_is_named_with_what_to_do(name: str) -> None:
    with pytest.raises(UserError, match=f"^trainer.{name}=1 is not for skinkd: .*; leave trainer.{name} out$"):
        check_trainer(PLAIN | {name: 1})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gradient_clip_algoritm": "value"}, "did you mean 'gradient_clip_algorithm'"),
        ({"accelerator": "tpu"}, "trainer.accelerator=tpu is not a valid value"),
        ({"strategy": "deepspeed"}, "trainer.strategy=deepspeed is not a valid value"),
        ({"precision": 8}, "trainer.precision=8 is not a valid value"),
        ({"fast_dev_run": -1}, "trainer.fast_dev_run=-1 must be true, false or a number of batches"),
        ({"max_time": "2 hours"}, "trainer.max_time=2 hours must be days:hours:minutes:seconds"),
        ({"check_val_every_n_epoch": 5}, "no epoch would be validated"),
        ({"check_val_every_n_epoch": 2, "max_steps": 3}, "leave one of them out"),
    ],
)
def test_a_wrong_argument_is_one_sentence(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as told:
        check_trainer(PLAIN | given)
    assert words in str(told.value)


def test_lightning_gets_its_own_arguments_and_the_loaders_theirs() -> None:
    given = PLAIN | {"fast_dev_run": 3, "max_steps": 7}
    assert lightning_arguments(given) == {"max_epochs": 1, "limit_train_batches": 3}
    assert image_limits(given) == {"train": 1.0, "val": 3, "test": 3}
    assert image_limits(PLAIN | {"overfit_batches": 2, "limit_test_batches": 0.5}) == {
        "train": 2,
        "val": 2,
        "test": 0.5,
    }
    assert image_limits(PLAIN) == {"train": 1.0, "val": 1.0, "test": 1.0}
    assert lightning_arguments(PLAIN | {"fast_dev_run": False}) == PLAIN


def test_only_validated_epochs_have_validation_metrics_and_can_be_the_best(trained: Any) -> None:
    run = trained("+trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4", "trainer.limit_train_batches=1",
                  "optim=sgd_plateau")  # fmt: skip
    rows = history(run)
    assert rows["val/loss"].notna().tolist() == [False, True, False, True]
    assert rows["train/loss"].notna().all() and (rows["images_per_second"] > 0).all()
    assert metrics(run)["best_epoch"] in (2, 4)


def test_the_training_ends_at_a_step_inside_an_epoch_with_a_validation(trained: Any) -> None:
    """Five steps an epoch: the seventh is the second of the second epoch, and the schedule ends with that epoch."""
    run = trained("+trainer.max_steps=7", "trainer.max_epochs=9", "+trainer.max_time=00:01:00:00",
                  "+trainer.detect_anomaly=true", "+trainer.benchmark=false", "+trainer.profiler=simple",
                  "trainer.gradient_clip_val=1", "+trainer.gradient_clip_algorithm=value")  # fmt: skip
    rows = history(run)
    assert len(rows) == 2 and rows["val/loss"].notna().all()
    # one cycle over two epochs of 5 steps rises over 2 and falls over 7: at the seventh step it is half-way down
    assert 0.02 < rows["lr"].iloc[1] < 0.06


def test_a_quick_run_writes_every_file_from_a_few_batches(trained: Any) -> None:
    run = trained("+trainer.fast_dev_run=1", "data.eval_batch_size=8", "trainer.max_epochs=9")
    assert metrics(run)["epochs"] == 1
    assert (metrics(run)["val/n"], metrics(run)["test/n"]) == (8, 8)
    # the images are sorted by id; the first eight would be neighbours
    ids = pd.read_csv(run / "splits.csv").query("split == 'test'")["image_id"].tolist()
    taken = [ids.index(name) for name in pd.read_csv(run / "predictions" / "test.csv")["image_id"]]
    assert max(b - a for a, b in pairwise(taken)) <= -(-len(ids) // 8)


def test_overfitting_sees_the_same_few_images_in_every_epoch(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    from skinkd.methods.supervised import Supervised

    step = Supervised.training_step

    def watched(self: Supervised, batch: Any, number: int) -> Any:
        if number == 0:
            seen.append(set())
        seen[-1] |= set(batch.index.tolist())
        return step(self, batch, number)

    monkeypatch.setattr(Supervised, "training_step", watched)
    run = trained("+trainer.overfit_batches=2", "+trainer.limit_test_batches=0.5", "data.eval_batch_size=4")
    assert len(seen) == 2 and seen[0] == seen[1] and len(seen[0]) == 32
    tests = (pd.read_csv(run / "splits.csv")["split"] == "test").sum()
    assert metrics(run)["val/n"] == 8 and abs(metrics(run)["test/n"] - tests / 2) <= 1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.limit_train_batches=0.01"], "trainer.limit_train_batches=0.01 of 5 batches of an epoch is none"),
        (["data.batch_size=1", "backbone.head=mlp"], "data.batch_size=1 gives test_resnet"),
        (["trainer.accelerator=cuda"], "needs a CUDA GPU"),
        (["+optim.optimizer.momentun=0.9"], "optim.optimizer cannot be built|optim cannot be built"),
        (["+trainer.logger=false"], "choose the tracker with logger=<choice>"),
    ],
)
def test_a_run_that_cannot_be_leaves_no_folder(trained: Any, tmp_path: Path, overrides: list[str], words: str) -> None:
    import torch

    if "accelerator=cuda" in overrides[0] and torch.cuda.is_available():
        pytest.skip("this machine has what the run needs")
    with pytest.raises(UserError, match=words):
        trained(*overrides)
    left = [path.name for path in (tmp_path / "outputs").glob("*")] if (tmp_path / "outputs").exists() else []
    assert left == []


def test_lightnings_variables_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """``PL_TRAINER_FAST_DEV_RUN=true`` would train one step and write metrics as if nothing were."""
    monkeypatch.setenv("PL_TRAINER_FAST_DEV_RUN", "true")
    with pytest.raises(UserError, match=r"PL_TRAINER_FAST_DEV_RUN in the environment .* give trainer\.fast_dev_run$"):
        check_trainer(PLAIN)
