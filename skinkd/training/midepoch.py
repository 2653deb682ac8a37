"""Checkpoints in the middle of an epoch: when they are written, and what they hold beyond Lightning's state.

A run that goes on from such a checkpoint computes the very numbers of a run that was never stopped.
"""

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback, Checkpoint, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from skinkd.errors import UserError

_SAVE = 1  # a wish to save and go on; the wishes to save and stop are the numbers of the signals, which are larger


class TimedCheckpoint(Checkpoint):
    """Writes a checkpoint every ``every_minutes``, and when SIGTERM or Ctrl-C asks the run to stop.

    It is written between two optimiser steps. Towards the end of an epoch the epoch's checkpoint follows, after validation.
    All processes write, or stop, after the same step. A second Ctrl-C stops at once.

    Args:
        path: the file to write.
        every_minutes: None, in a stored configuration from before the setting: only when the run is asked to stop.
    """

    def __init__(self, path: Path, *, every_minutes: float | None) -> None:
        self.path = path
        self.seconds = float("inf") if every_minutes is None else 60 * every_minutes
        self._asked = 0
        self._saved = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved = time.monotonic()
        if threading.current_thread() is not threading.main_thread():
            return  # Python gives signals to the main thread alone
        # Lightning's handlers, which these replace, end the run without a checkpoint. It restores all handlers at the end
        signal.signal(signal.SIGTERM, self._ask)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as in the background of a shell
            signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, _: Any) -> None:
        if number == signal.SIGINT == self._asked:
            raise KeyboardInterrupt
        self._asked = number

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning would leave this True to the end of the epoch, and then not tell a plateau schedule of the epoch
        trainer.fit_loop._restarting = False
        done = batch_idx + 1
        if done % trainer.accumulate_grad_batches or done == trainer.num_training_batches or _validates(trainer, done):
            return
        wish = self._wish(trainer, pl_module)
        if wish:
            trainer.save_checkpoint(self.path)
            self._saved = time.monotonic()
        _stop(wish)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved = time.monotonic()  # the last epoch's checkpoint
        _stop(self._wish(trainer, pl_module))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _stop(self._wish(trainer, pl_module))

    def _wish(self, trainer: L.Trainer, pl_module: L.LightningModule) -> int:
        """Return what any of the processes wishes; every process gets the same."""
        wish = self._asked or (_SAVE if time.monotonic() - self._saved >= self.seconds else 0)
        if trainer.world_size == 1:
            return wish
        return int(trainer.strategy.reduce(torch.tensor(wish, device=pl_module.device), reduce_op="max"))


def _validates(trainer: L.Trainer, done: int) -> bool:
    """Return whether validation follows the batch: a run that goes on from there would leave it out."""
    every = trainer.val_check_batch
    return isinstance(every, int) and done % every == 0


def _stop(wish: int) -> None:
    if wish == signal.SIGINT:
        raise KeyboardInterrupt
    if wish == signal.SIGTERM:
        raise SIGTERMException


class ProcessStates(Callback):
    """Keeps what each process alone knows in every checkpoint: its place in the epoch, its random generators, its loss sums.

    Lightning keeps the place in the epoch too, and forgets it where an optimiser's schedule asks for the number of steps, as
    ours do: then the loaders are made before the checkpoint is read.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        loader: Any = trainer.train_dataloader
        own = {
            "loader": loader.state_dict(),
            "random": random_states(pl_module.device),
            "terms": pl_module.terms.state_dict(),
        }
        states: list[Any] = [own]
        if dist.is_available() and dist.is_initialized():
            states = [None] * trainer.world_size
            dist.all_gather_object(states, own)
        checkpoint["processes"] = states

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        states = checkpoint.get("processes")  # a checkpoint may be older than these states
        if states is None:
            return
        epoch = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        if len(states) == trainer.world_size:
            self._loaded = states[trainer.global_rank]
        elif epoch["started"] != epoch["processed"]:
            raise UserError(
                f"the run was stopped in the middle of an epoch of {len(states)} processes, and now there are "
                f"{trainer.world_size}, which would take other images; give it the devices that it had, or force=true"
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self._loaded is not None:
            loader: Any = trainer.train_dataloader
            loader.load_state_dict(self._loaded["loader"])
            set_random_states(self._loaded["random"], pl_module.device)
            pl_module.terms.load_state_dict(self._loaded["terms"], pl_module.device)
            self._loaded = None


def random_states(device: torch.device) -> dict[str, Any]:
    """Return the states of all generators that a training step may draw from, as values that any checkpoint may hold."""
    name, key, *rest = np.random.get_state(legacy=True)
    version, numbers, following = random.getstate()
    states = {
        "python": (version, torch.tensor(numbers), following),
        "numpy": (name, torch.tensor(key.astype(np.int64)), *rest),  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Set the generators to the states of :func:`random_states`."""
    version, numbers, following = states["python"]
    random.setstate((version, tuple(numbers.tolist()), following))
    name, key, *rest = states["numpy"]
    np.random.set_state((name, key.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


class MovedFolder(Callback):
    """Lets an unfinished run go on after its folder was moved: otherwise Lightning would forget the best score so far."""

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            state = checkpoint["callbacks"].get(callback.state_key)
            if isinstance(callback, ModelCheckpoint) and state:
                folder = str(callback.dirpath)
                for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
                    state[name] = _inside(folder, state[name])
                state["best_k_models"] = {_inside(folder, path): v for path, v in state["best_k_models"].items()}
                state["dirpath"] = folder


def _inside(folder: str, path: str) -> str:
    return os.path.join(folder, os.path.basename(path)) if path else path


class EMA(EMAWeightAveraging):
    """Lightning's moving average of the weights, which leaves constants as they are.

    Lightning averages buffers too, also those that no checkpoint has, such as the mean and deviation of the network's
    normalisation. The average of equal numbers differs from them in the last digit. So a network read from the checkpoint
    would differ from the one that was trained.
    """

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        assert self._average_model is not None
        averaged = dict(self._average_model.module.named_buffers())
        for name, constant in constants(pl_module).items():
            averaged[name].copy_(constant)


def constants(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the buffers that no checkpoint has, by name."""
    stored = module.state_dict().keys()
    return {name: buffer for name, buffer in module.named_buffers() if name not in stored}
