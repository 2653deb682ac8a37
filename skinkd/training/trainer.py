"""Lightning's trainer, and the callbacks of the fit."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    ModelCheckpoint,
    ProgressBar,
)
from lightning.pytorch.plugins.io import TorchCheckpointIO

from skinkd.data.datamodule import SkinDataModule
from skinkd.errors import UserError, check_choice
from skinkd.runs.checkpoints import LAST, write_checkpoint
from skinkd.runs.folder import RunFolder
from skinkd.training.callbacks import (
    CheckpointCard,
    DivergenceCheck,
    EpochLine,
    EpochSeed,
    History,
    MonitorCheck,
    Progress,
)
from skinkd.training.midepoch import EMA, MovedFolder, ProcessStates, TimedCheckpoint
from skinkd.training.scorer import Scorer

Config = dict[str, Any]


def fit_callbacks(config: Config, folder: RunFolder, data: SkinDataModule, card: Config) -> list[Callback]:
    """Return the callbacks of the fit in the order in which they must run; ``card`` goes into the checkpoints."""
    monitor, mode = (
        config["monitor"]["metric"],
        check_choice("monitor.mode", config["monitor"]["mode"], ("min", "max")),
    )
    history = History(folder)
    scorer = Scorer(data, calibration_bins=config["evaluation"]["calibration_bins"])
    callbacks: list[Callback] = [EpochSeed(config["seed"]), DivergenceCheck(), scorer, MonitorCheck(monitor)]
    callbacks += [history, EpochLine(history), CheckpointCard(card), ProcessStates(), MovedFolder()]
    if config["trainer"]["enable_progress_bar"]:
        callbacks.append(Progress())
    if config["ema"]["decay"] is not None:
        callbacks.append(EMA(decay=config["ema"]["decay"]))
    if config["early_stopping"]["patience"] is not None:
        callbacks.append(EarlyStopping(monitor, mode=mode, patience=config["early_stopping"]["patience"]))

    def keep(name: str, **choice: Any) -> ModelCheckpoint:
        return ModelCheckpoint(
            dirpath=folder.checkpoints,
            filename=name,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
            **choice,
        )

    # last.ckpt has a separate callback: save_last=True would write it only when best.ckpt is written. It comes second, so
    # that last.ckpt records the best score up to this epoch
    every = config.get("checkpoint", {"every_minutes": None})["every_minutes"]  # stored runs may be older than the setting
    timed = TimedCheckpoint(folder.checkpoints / LAST, every_minutes=every)
    return [*callbacks, keep("best", monitor=monitor, mode=mode), keep("last"), timed]


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's reader and writer of checkpoints, with our writer: Lightning's goes through the folder of temporary files,
    and is silent about a folder that cannot be written."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_checkpoint(checkpoint, Path(path))


def build_trainer(config: Config, *, callbacks: list[Callback], logger: Any) -> L.Trainer:
    """Build Lightning's trainer from ``trainer``. Only ``callbacks`` show progress and write checkpoints.

    Raises:
        UserError: the strategy or the precision needs a GPU, and this machine has none.
    """
    settings = dict(config["trainer"])
    if settings["accelerator"] == "gpu" and not torch.cuda.is_available():
        raise UserError("strategy needs a CUDA GPU and this machine has none; use strategy=cpu, ddp_cpu or auto")
    if settings["precision"] == "16-mixed" and not torch.cuda.is_available():
        raise UserError("precision=fp16 needs a CUDA GPU and this machine has none; use precision=bf16 or fp32")
    settings["enable_progress_bar"] = any(isinstance(callback, ProgressBar) for callback in callbacks)
    trainer = L.Trainer(
        **settings,
        callbacks=callbacks,
        logger=logger or False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        plugins=[CheckpointFiles()],
    )
    # with deterministic algorithms PyTorch fills new memory, which takes time. That only helps code that reads unwritten
    # memory; there is none here
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return trainer
