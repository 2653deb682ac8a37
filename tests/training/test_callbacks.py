"""The callbacks around a training step, run by a trainer on a method of one linear layer."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from skinkd.batch import Batch
from skinkd.methods.terms import TermMeter, TrainingDivergedError
from skinkd.runs.folder import RunFolder
from skinkd.training.callbacks import CheckpointCard, DivergenceCheck, EpochLine, EpochSeed, History, Progress


class Tiny(L.LightningModule):
    """Loss b at step b of an epoch; validation scores that the test knows."""

    def __init__(self, poison: int | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.terms = TermMeter()
        self.logs_step = True
        self.poison = poison
        self.drawn: list[float] = []

    def on_train_epoch_start(self) -> None:
        self.terms.reset()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.drawn.append(torch.rand(()).item())
        term = self.layer(batch.image).mean() * 0 + batch_idx
        if self.global_step == self.poison:
            term = term * float("nan")
        self.terms.update({"ce": term, "loss": 2 * term}, self.global_step)
        return 2 * term

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        scores = {"loss": 0.5, "accuracy": 0.25, "balanced_accuracy": 0.125, "auroc_macro": 0.75}
        self.log_dict({f"val/{name}": value + self.current_epoch for name, value in scores.items()})

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


def loader() -> DataLoader[Batch]:
    samples = [Batch(torch.ones(2), torch.tensor(0), torch.tensor(i)) for i in range(12)]
    # a generator of its own, as ours has: a loader draws at each start
    return DataLoader(samples, batch_size=4, generator=torch.Generator())  # type: ignore[arg-type]


def fit(
    module: Tiny, callbacks: list[Callback], *, epochs: int = 2, ckpt: Path | None = None, **settings: Any
) -> L.Trainer:
    options = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 100,
    }
    trainer = L.Trainer(**{**options, **settings}, max_epochs=epochs, callbacks=callbacks)
    trainer.fit(module, loader(), loader(), ckpt_path=ckpt)
    return trainer


def test_history_is_the_epochs_means_and_scores(tmp_path: Path) -> None:
    history = History(RunFolder(tmp_path))
    fit(Tiny(), [history])
    table = pd.read_csv(tmp_path / "history.csv")
    assert table["epoch"].tolist() == [1, 2]
    assert table["train/ce"].tolist() == [1.0, 1.0] and table["train/loss"].tolist() == [2.0, 2.0]
    assert table["val/accuracy"].tolist() == [0.25, 1.25]
    assert table["lr"].tolist() == pytest.approx([0.1, 0.05])
    # 12 images in the training part of the epoch, which is shorter than the epoch
    assert (table["images_per_second"] > 12 / table["seconds"]).all()


def test_history_goes_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    first = History(RunFolder(tmp_path))
    trainer = fit(Tiny(), [first], epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    fit(Tiny(), [History(RunFolder(tmp_path / "lost"))], epochs=3)  # whatever went on after the checkpoint
    resumed = History(RunFolder(tmp_path))
    fit(Tiny(), [resumed], epochs=3, ckpt=tmp_path / "two.ckpt")
    assert pd.read_csv(tmp_path / "history.csv")["epoch"].tolist() == [1, 2, 3]
    assert resumed.rows[:2] == first.rows


def test_the_line_of_an_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = History(RunFolder(tmp_path))
    fit(Tiny(), [history, EpochLine(history)], epochs=1)
    line = capsys.readouterr().out.strip()
    assert line.startswith("epoch   1/1  loss 2.000  val loss 0.500  acc 0.250  bal 0.125  AUROC 0.750  ")


def test_each_epoch_draws_from_its_own_seed() -> None:
    whole, other, late = Tiny(), Tiny(), Tiny()
    fit(whole, [EpochSeed(0)])
    torch.manual_seed(99)
    fit(other, [EpochSeed(1)])
    assert whole.drawn != other.drawn
    assert whole.drawn[:3] != whole.drawn[3:]
    # an epoch draws the same whatever was drawn before it
    trainer = SimpleNamespace(current_epoch=1, global_rank=0)
    EpochSeed(0).on_train_epoch_start(trainer, late)  # type: ignore[arg-type]
    assert [torch.rand(()).item() for _ in range(3)] == whole.drawn[3:]
    trainer.global_rank = 1
    EpochSeed(0).on_train_epoch_start(trainer, late)  # type: ignore[arg-type]
    assert [torch.rand(()).item() for _ in range(3)] != whole.drawn[3:]


@pytest.mark.parametrize(("interval", "stopped_at"), [(1, 2), (2, 2), (100, 3)])
def test_divergence_is_found_at_the_interval_or_before_validation(interval: int, stopped_at: int) -> None:
    module = Tiny(poison=1)
    with pytest.raises(TrainingDivergedError, match="'ce' became NaN or infinite at training step 1;"):
        fit(module, [DivergenceCheck()], log_every_n_steps=interval)
    assert len(module.drawn) == stopped_at


def test_nothing_is_said_of_a_run_that_is_well() -> None:
    fit(Tiny(), [DivergenceCheck()], log_every_n_steps=1)


def test_every_checkpoint_gets_the_card(tmp_path: Path) -> None:
    card = {"classes": ["a", "b"]}
    fit(Tiny(), [CheckpointCard(card)], epochs=1).save_checkpoint(tmp_path / "one.ckpt")
    assert torch.load(tmp_path / "one.ckpt", weights_only=True)["skinkd"] == card


def test_the_bar_shows_the_loss_of_the_step() -> None:
    class Logged(Tiny):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.log("train/loss", loss.detach())
            return loss

    class Shown(Callback):
        def __init__(self) -> None:
            self.values: list[dict[str, Any]] = []

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
            self.values.append(Progress().get_metrics(trainer, pl_module))

    shown = Shown()
    fit(Logged(), [shown], epochs=1)
    assert shown.values == [{"loss": 0.0}, {"loss": 2.0}, {"loss": 4.0}]
