"""Scores a validation or test pass: it joins the predictions of all processes and computes their metrics."""

from typing import Any, NamedTuple

import lightning as L
import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from skinkd.batch import Batch
from skinkd.data.datamodule import SkinDataModule
from skinkd.scoring.metrics import evaluate
from skinkd.scoring.predictions import prediction_table


class Scored(NamedTuple):
    """The scores of one output of the method on one part.

    Attributes:
        table: the prediction table (see :mod:`skinkd.scoring.metrics`).
        metrics: every metric of the table.
    """

    table: pd.DataFrame
    metrics: dict[str, float]


class Scorer(Callback):
    """Scores every validation and test pass of a trainer.

    It gathers the probabilities that the method's steps return, and makes a prediction table of each output. During training
    it logs the metrics as ``<part>/<metric>``, or as ``<part>/<exit>/<metric>`` for an exit. All processes hold the same
    results.

    Args:
        data: gives the classes, and the rows of each part.
        calibration_bins: number of bins of the expected calibration error.

    Attributes:
        results: ``results[part][output]`` of the last pass over each part. The output of the deployed network has the name
            ``""``; the output of an exit has the exit's name.
    """

    def __init__(self, data: SkinDataModule, *, calibration_bins: int) -> None:
        self.data = data
        self.calibration_bins = calibration_bins
        self.results: dict[str, dict[str, Scored]] = {}
        self._batches: list[tuple[Tensor, dict[str, Tensor]]] = []

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        self._batches.append((batch.index, outputs))

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        self._batches.append((batch.index, outputs))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._finish("val", trainer, pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._finish("test", trainer, pl_module)

    def _finish(self, part: str, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        classes, rows = self.data.classes, self.data.rows(part)
        rows = rows.assign(label=[classes[label] for label in rows["label"]])
        index = _gather(torch.cat([index for index, _ in self._batches]).cpu().numpy())
        self.results[part] = {}
        for output in self._batches[0][1]:
            probability = torch.cat([outputs[output] for _, outputs in self._batches]).cpu().numpy()
            table = prediction_table(rows, index, _gather(probability), classes)
            metrics = evaluate(table, classes, calibration_bins=self.calibration_bins)
            self.results[part][output] = Scored(table, metrics)
            if trainer.state.fn == TrainerFn.FITTING:  # afterwards nothing reads what is logged
                prefix = f"{part}/{output}/" if output else f"{part}/"
                pl_module.log_dict({f"{prefix}{name}": value for name, value in metrics.items()}, rank_zero_only=False)
        self._batches.clear()


def _gather(rows: np.ndarray) -> np.ndarray:
    """Concatenate the rows of all processes; they may hold different numbers of rows."""
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows)
    return np.concatenate(parts)
