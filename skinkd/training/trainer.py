"""Lightning's trainer, and the callbacks of the fit."""

import datetime
import math
import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    ModelCheckpoint,
    ProgressBar,
)
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from skinkd.config.trainer_arguments import lightning_arguments
from skinkd.data.datamodule import SkinDataModule
from skinkd.errors import UserError, check_choice
from skinkd.runs.checkpoints import LAST, write_checkpoint
from skinkd.runs.folder import RunFolder
from skinkd.scoring.metrics import HIGHER_IS_BETTER, LOWER_IS_BETTER
from skinkd.training.callbacks import (
    CheckpointCard,
    DivergenceCheck,
    EpochLine,
    EpochSeed,
    History,
    MonitorCheck,
    Progress,
    StopAtStep,
)
from skinkd.training.midepoch import EMA, MovedFolder, ProcessStates, TimedCheckpoint
from skinkd.training.processes import in_one_process
from skinkd.training.scorer import Scorer

Config = dict[str, Any]


def fit_callbacks(config: Config, folder: RunFolder, data: SkinDataModule, card: Config) -> list[Callback]:
    """Return the callbacks of the fit in the order in which they must run; ``card`` goes into the checkpoints."""
    monitor, mode = config["monitor"]["metric"], config["monitor"]["mode"]
    history = History(folder)
    scorer = Scorer(data, calibration_bins=config["evaluation"]["calibration_bins"])
    callbacks: list[Callback] = [EpochSeed(config["seed"]), DivergenceCheck(), scorer, MonitorCheck(monitor)]
    callbacks += [history, EpochLine(history), CheckpointCard(card), ProcessStates(), MovedFolder()]
    if config["trainer"]["enable_progress_bar"]:
        callbacks.append(Progress())
    if config["ema"]["decay"] is not None:
        callbacks.append(EMA(decay=config["ema"]["decay"]))
    if config["trainer"].get("max_steps") is not None:
        callbacks.append(StopAtStep(config["trainer"]["max_steps"]))
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
    every = config.get("checkpoint", {"every_minutes": None})[
        "every_minutes"
    ]  # stored runs may be older than the setting
    timed = TimedCheckpoint(folder.checkpoints / LAST, every_minutes=every)
    return [*callbacks, keep("best", monitor=monitor, mode=mode), keep("last"), timed]


def check_monitor(monitor: Config) -> None:
    """Raise UserError if ``monitor.mode`` would choose the worst epoch of ``monitor.metric``.

    A metric that we do not know, such as one of another package's method, may have either mode.
    """
    metric, mode = monitor["metric"], check_choice("monitor.mode", monitor["mode"], ("min", "max"))
    names = metric.split("/")[1:]  # of an exit, the metric, of a class
    lower = any(name in LOWER_IS_BETTER for name in names)
    higher = any(name.startswith(HIGHER_IS_BETTER) for name in names)
    best = "min" if lower else "max" if higher else mode
    if mode != best:
        raise UserError(
            f"monitor.mode={mode} would choose the worst epoch, because monitor.metric={metric} is better when it is "
            f"{'lower' if best == 'min' else 'higher'}; set monitor.mode={best}"
        )


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's reader and writer of checkpoints, with our writer: Lightning's goes through the folder of temporary files,
    and is silent about a folder that cannot be written."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_checkpoint(checkpoint, Path(path))


def _environments(trainer: Config) -> list[ClusterEnvironment]:
    """Return who starts the processes of the run, where Lightning's guess would be wrong; empty: Lightning's guess is right.

    The variables that SLURM sets say nothing about a run that is one task, or one process of any task. Lightning would take the
    allocation's number of tasks for the run's number of processes. At SIGUSR1 it would write ``hpc_ckpt_1.ckpt`` into the
    current folder and queue the job again; our checkpoints go to the run folder.
    """
    if in_one_process(trainer) or os.environ.get("SLURM_NTASKS") == "1":
        return [LightningEnvironment()]
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _strategy(name: str, minutes: float) -> str | Strategy:
    """Return the strategy of a name of ``trainer.strategy``; its processes wait at most ``minutes`` for each other."""
    limit = datetime.timedelta(minutes=minutes)
    if name.startswith("ddp"):
        return DDPStrategy(timeout=limit, find_unused_parameters=name == "ddp_find_unused_parameters_true")
    return FSDPStrategy(timeout=limit) if name == "fsdp" else name


def build_trainer(config: Config, *, callbacks: list[Callback], logger: Any) -> L.Trainer:
    """Build Lightning's trainer from ``trainer``. Only ``callbacks`` show progress and write checkpoints.

    Raises:
        UserError: the strategy or the precision needs a GPU, and this machine has none, or Lightning refuses an argument.
    """
    settings = lightning_arguments(config["trainer"])
    if settings["accelerator"] in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError("strategy needs a CUDA GPU and this machine has none; use strategy=cpu, ddp_cpu or auto")
    if settings["precision"] == "16-mixed" and not torch.cuda.is_available():
        raise UserError("precision=fp16 needs a CUDA GPU and this machine has none; use precision=bf16 or fp32")
    if "distributed" in config:  # stored runs may be older than the setting
        settings["strategy"] = _strategy(settings["strategy"], config["distributed"]["timeout_minutes"])
    settings["enable_progress_bar"] = any(isinstance(callback, ProgressBar) for callback in callbacks)
    try:
        trainer = L.Trainer(
            **settings,
            callbacks=callbacks,
            logger=logger or False,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            plugins=[CheckpointFiles(), *_environments(settings)],
            # here Lightning looks for hpc_ckpt_N.ckpt, and would go on from it: in the current folder, that of any run
            default_root_dir=os.devnull,
        )
    except (MisconfigurationException, ValueError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}; change that argument, or leave it out") from error
    # with deterministic algorithms PyTorch fills new memory, which takes time. That only helps code that reads unwritten
    # memory; there is none here
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return trainer


def bound_training(trainer: L.Trainer, settings: Config, data: SkinDataModule) -> None:
    """Let the schedule of the learning rate end with ``trainer.max_steps``, which may be epochs before ``max_epochs``.

    Raises:
        UserError: ``trainer.limit_train_batches`` leaves no batch.
    """
    batches, limit = data.train_batches(trainer.world_size), settings["limit_train_batches"]
    used = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    if used < 1:
        raise UserError(
            f"trainer.limit_train_batches={limit} of {batches} batches of an epoch is none; give a number of batches, such "
            "as 1, or a smaller data.batch_size"
        )
    steps = settings.get("max_steps")
    if steps is not None:
        of_an_epoch = math.ceil(used / settings["accumulate_grad_batches"])
        trainer.fit_loop.max_epochs = min(settings["max_epochs"], math.ceil(steps / of_an_epoch))
