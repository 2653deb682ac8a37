"""Lightning's loop around a step of every method does nothing, found on a CPU, that would make a GPU's host wait."""

from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from test_contract import METHODS
from test_gpu_steps import Log, steps
from waits import NoWait
from world import make_method

from skinkd.batch import Batch


class Watched(Callback):
    """Watches from the third step, when all is set up, to the end of the last one."""

    def __init__(self) -> None:
        self.mode = NoWait()
        self.steps = 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 2:
            self.mode.__enter__()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.steps += batch_idx >= 2
        if trainer.is_last_batch:
            self.mode.__exit__(None, None, None)

    def on_exception(self, *_: Any) -> None:
        self.mode.__exit__(None, None, None)


@pytest.mark.parametrize("name", METHODS)
def test_no_step_makes_the_host_wait(name: str) -> None:
    watched = Watched()
    steps(make_method(name, "method.warmup_epochs=1"), "cpu", callbacks=[watched, Log()], count=4, size=2)
    assert watched.steps == 2


def test_a_metric_in_the_bar_would_be_a_wait() -> None:
    class Bar(Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
            pl_module.log("shown", torch.zeros(()), prog_bar=True)

    with pytest.raises(AssertionError, match="_local_scalar_dense"):
        steps(make_method("supervised"), "cpu", callbacks=[Watched(), Bar()], count=4, size=2)
