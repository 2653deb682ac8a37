"""Callbacks around the training step: seeds of epochs, checks, the checkpoint's card, history.csv, terminal output."""

import hashlib
import sys
import time
from typing import Any

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

from skinkd.errors import UserError, nearest
from skinkd.runs.folder import RunFolder


class EpochSeed(Callback):
    """Begin each epoch from a generator state derived from (seed, epoch, rank).

    So dropout, and all else that draws on the device, is the same in a run that goes on from a checkpoint.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        text = f"{self.seed}:{trainer.current_epoch}:{trainer.global_rank}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big"))


class DivergenceCheck(Callback):
    """Stop if a loss term is NaN or infinite. Checked at every logging interval, and before anything is scored or saved."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            pl_module.terms.check()

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.terms.check()


class MonitorCheck(Callback):
    """Stop at the first validation if it does not measure ``monitor.metric``, which chooses the best epoch."""

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        measured = [name for name in trainer.callback_metrics if name.startswith("val/")]
        if self.metric not in measured:
            # metrics of a single class or exit would fill a screen
            listed = [name for name in measured if name.count("/") == 1]
            raise UserError(f"monitor.metric={self.metric} is not measured on validation{nearest(self.metric, listed)}")


class StopAtStep(Callback):
    """Stop after so many steps, with a validation, also in the middle of an epoch: Lightning's own limit leaves it out."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step >= self.steps:
            trainer.should_stop = True


class CheckpointCard(Callback):
    """Add the card to every checkpoint: the network, its classes, and the images that it was trained and selected on.

    So a checkpoint can be used without its run folder. ``skinkd.training.run.card`` makes the card.
    """

    def __init__(self, card: dict[str, Any]) -> None:
        self.card = card

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["skinkd"] = self.card


class History(Callback):
    """Writes ``history.csv``, one row for each epoch: loss terms (unweighted means), validation metrics, learning rate
    of the last step, speed.

    The checkpoint holds the rows, so that the history of a resumed run continues at the right epoch. ``seconds`` is the
    epoch's time including validation. ``images_per_second`` counts source images, and the time of training only.
    The time between two processes of a run does not count. An epoch that ``trainer.check_val_every_n_epoch`` leaves out has no
    validation metrics.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self._began = self._trained = self._lr = 0.0
        self._images, self._validated = 0, False

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "images": self._images, "seconds": time.perf_counter() - self._began}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
        self._images = state_dict.get("images", 0)
        self._began = time.perf_counter() - state_dict.get("seconds", 0.0)

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.rows and trainer.is_global_zero:
            self._write()  # the file may be damaged, or be one epoch ahead of the checkpoint

    def _write(self) -> None:
        self.folder.write_csv("history.csv", pd.DataFrame(self.rows))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._images, self._validated = 0, False
        self._began = time.perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        # read at this step: by the end of the epoch the schedule may have set the next epoch's rate
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]
        if pl_module.logs_step:
            # created on the device: the copy of a number from the host would wait for the device
            pl_module.log("lr", torch.full((), self._lr, device=pl_module.device))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self._images += len(batch.label) * trainer.world_size

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._trained, self._validated = time.perf_counter(), True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not self._validated:
            self._trained = time.perf_counter()
        speed = self._images / max(self._trained - self._began, 1e-9)
        pl_module.log("train/images_per_second", speed, rank_zero_only=False)
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1}
        row |= {f"train/{name}": value for name, value in pl_module.terms.means().items()}
        if self._validated:  # otherwise Lightning still has the metrics of an earlier epoch
            row |= {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        row |= {
            "lr": self._lr,
            "seconds": time.perf_counter() - self._began,
            "images_per_second": speed,
        }
        self.rows.append(row)
        if trainer.is_global_zero:
            self._write()


class Progress(TQDMProgressBar):
    """A progress bar for the batches of an epoch, in a terminal only."""

    def __init__(self) -> None:
        # showing the loss waits for the device, so it is not shown at every step
        super().__init__(refresh_rate=5 if sys.stdout.isatty() else 0, leave=False)

    def get_metrics(self, trainer: L.Trainer, pl_module: Any) -> dict[str, Any]:
        loss = pl_module.terms.latest().get("loss")
        return {} if loss is None else {"loss": loss}

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        super().on_train_start(trainer)
        if trainer.fit_loop.restarted_mid_epoch:
            self.on_train_epoch_start(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def init_validation_tqdm(self) -> Any:
        bar = super().init_validation_tqdm()
        bar.disable = True
        return bar


_SHOWN = {
    "val loss": "val/loss",
    "acc": "val/accuracy",
    "bal": "val/balanced_accuracy",
    "AUROC": "val/auroc_macro",
}


class EpochLine(Callback):
    """Prints the epoch's metrics on one line, for a terminal and for a cluster's log file."""

    def __init__(self, history: History) -> None:
        self.history = history

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        row = self.history.rows[-1]
        shown = [
            f"epoch {row['epoch']:>3}/{trainer.max_epochs}",
            f"loss {row['train/loss']:.3f}",
            *(f"{short} {row[name]:.3f}" for short, name in _SHOWN.items() if name in row),
            f"{row['seconds']:.0f} s",
        ]
        tqdm.write("  ".join(shown), file=sys.stdout)
        sys.stdout.flush()
