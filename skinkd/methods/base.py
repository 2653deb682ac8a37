"""What must be the same for every method, so that comparing them is fair: optimisation, scoring, term bookkeeping.

A method is this protocol plus its own ``training_step``, which reads like its paper.
"""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import lightning as L
import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from skinkd.batch import Batch
from skinkd.errors import UserError, nearest
from skinkd.methods.terms import TermMeter
from skinkd.scoring.metrics import evaluate
from skinkd.scoring.predictions import prediction_table


class Method(L.LightningModule):
    """A training method around one deployed network.

    Args:
        network: what is deployed and scored: ``network(image) -> logits``, ``network.features(image)`` for the rest.
        criterion: the loss against hard labels, ``(logits (B, K), label (B,)) -> scalar``, the same for every method of
            a comparison.
        optimizer: ``(parameters) -> Optimizer``.
        schedule: ``(optimizer, epochs=, steps_per_epoch=) -> scheduler dictionary`` (``methods/schedules.py``).
        loss_weights: weight of each term; a weight of 0 removes the term and whatever only it needs.
        warmup_epochs: the distillation terms' weights rise linearly from 0 over this many epochs; 0 is off.
        calibration_bins: bins of the expected calibration error.
    """

    views: ClassVar[str] = "one"
    """What one training sample is; a name in ``skinkd.data.views``."""

    term_names: ClassVar[tuple[str, ...]] = ("ce",)
    """The loss terms, by the paper's names."""

    distillation_terms: ClassVar[tuple[str, ...]] = ()
    """Those of ``term_names`` that ``warmup_epochs`` ramps."""

    trains_exits: ClassVar[bool] = False
    """Whether its loss reaches the exits of a network that has some; those of another method stay frozen."""

    network: nn.Module

    def __init__(
        self,
        network: nn.Module,
        *,
        criterion: Callable[[Tensor, Tensor], Tensor],
        optimizer: Callable[[Iterator[nn.Parameter]], Optimizer],
        schedule: Callable[..., dict[str, Any]],
        loss_weights: dict[str, float],
        warmup_epochs: float,
        calibration_bins: int,
    ) -> None:
        super().__init__()
        for name, weight in loss_weights.items():
            if name not in self.term_names:
                raise UserError(
                    f"method.loss_weights.{name} is not a loss term of this method{nearest(name, self.term_names)}"
                )
            if weight < 0:
                raise UserError(f"method.loss_weights.{name}={weight} is negative; use 0 to switch the term off")
        if set(loss_weights) != set(self.term_names):
            missing = sorted(set(self.term_names) - set(loss_weights))
            raise UserError(f"method.loss_weights has no weight for {', '.join(missing)}; use 0 to switch a term off")
        if not any(loss_weights.values()):
            raise UserError("method.loss_weights are all 0, which leaves nothing to learn; set one of them above 0")
        if warmup_epochs < 0:
            raise UserError(f"method.warmup_epochs={warmup_epochs} is negative; use 0 for no warm-up")
        freeze_exits = getattr(network, "freeze_exits", None)
        if freeze_exits and not self.trains_exits:
            freeze_exits()
        self.network = network
        self.criterion = criterion
        self.loss_weights = {name: float(weight) for name, weight in loss_weights.items()}
        self.warmup_epochs = warmup_epochs
        self.calibration_bins = calibration_bins
        self.terms = TermMeter()
        self.card: dict[str, Any] = {}
        self._optimizer = optimizer
        self._schedule = schedule
        self.exit_tables: dict[str, pd.DataFrame] = {}
        self._scored: list[tuple[Tensor, dict[str, Tensor]]] = []

    # ---------------------------------------------------------------- training

    def uses(self, term: str) -> bool:
        """Whether the term has a weight above 0, and so whether its modules are built."""
        return self.loss_weights[term] > 0

    def combine(self, **terms: Tensor) -> Tensor:
        """Weigh, ramp, log and add up the scalar terms of this step; the terms are logged unweighted."""
        active = {name for name in self.term_names if self.uses(name)}
        if set(terms) != active:
            raise ValueError(f"the step gives the terms {sorted(terms)}, loss_weights has {sorted(active)}")
        ramp = self._ramp()
        weight = {name: self.loss_weights[name] * (ramp if name in self.distillation_terms else 1.0) for name in terms}
        loss = torch.stack([weight[name] * value for name, value in terms.items()]).sum()
        step = self.trainer.global_step
        self.terms.update({**terms, "loss": loss}, step)
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def _ramp(self) -> float:
        if not self.warmup_epochs:
            return 1.0
        return min(self.trainer.global_step / (self.warmup_epochs * self._steps_per_epoch()), 1.0)

    def _steps_per_epoch(self) -> int:
        epochs = self.trainer.max_epochs or 1
        return max(int(self.trainer.estimated_stepping_batches) // epochs, 1)

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
        schedule = self._schedule(optimizer, epochs=self.trainer.max_epochs, steps_per_epoch=self._steps_per_epoch())
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the card: what the network is and what it was trained on, so that the file alone can be used again."""
        checkpoint["skinkd"] = self.card

    # ---------------------------------------------------------------- scoring

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K) of the deployed network for images (B, 3, H, W), uint8 or float in [0, 1]."""
        return self.network(image)

    def predict(self, image: Tensor) -> dict[str, Tensor]:
        """Logits (B, K) of all that is scored: of the deployed network under ``""``, of its exits, in order, by name."""
        return {"": self(image)}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._score(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        self._finish_scoring("val")

    def on_test_epoch_end(self) -> None:
        self._finish_scoring("test")

    def _score(self, batch: Batch) -> None:
        outputs = self.predict(batch.image)
        self._scored.append((batch.index, {name: z.float().softmax(dim=1) for name, z in outputs.items()}))

    def _finish_scoring(self, part: str) -> None:
        """Gather every process's probabilities into one table an output and score it; all processes hold the same."""
        index = _gather(torch.cat([index for index, _ in self._scored]).cpu().numpy())
        names = self._scored[0][1]
        probability = {name: torch.cat([p[name] for _, p in self._scored]).cpu().numpy() for name in names}
        self._scored.clear()
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        classes = datamodule.classes
        rows = datamodule.rows(part)
        rows = rows.assign(label=[classes[label] for label in rows["label"]])
        tables = {name: prediction_table(rows, index, _gather(p), classes) for name, p in probability.items()}
        for output, table in tables.items():
            scores = evaluate(table, classes, calibration_bins=self.calibration_bins)
            prefix = f"{part}/{output}/" if output else f"{part}/"
            self.log_dict({f"{prefix}{name}": value for name, value in scores.items()}, rank_zero_only=False)
        self.table = tables.pop("")
        self.exit_tables = tables


def _gather(rows: np.ndarray) -> np.ndarray:
    """Concatenate the rows of all processes; they may hold different numbers of rows."""
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows)
    return np.concatenate(parts)
