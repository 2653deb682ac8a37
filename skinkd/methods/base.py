"""The protocol that every method shares, so that comparing them is fair: weights of the terms, optimiser, predictions.

A method adds its own ``training_step``, which reads like its paper.
"""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from skinkd.batch import Batch
from skinkd.errors import UserError, nearest
from skinkd.methods.terms import TermMeter


class Method(L.LightningModule):
    """A training method around the network that will be deployed.

    Args:
        network: the network that is deployed and scored. ``network(image)`` gives its logits, ``network.features(image)``
            its stages, pooled features and logits.
        criterion: the loss against the labels, ``(logits (B, K), label) -> scalar``; every method of a comparison has the
            same. ``label`` is int64 (B,), or float (B, K) for a mixed batch.
        optimizer: ``(parameters) -> Optimizer``.
        schedule: ``(optimizer, epochs=, steps_per_epoch=) -> scheduler dictionary`` (``methods/schedules.py``).
        loss_weights: the weight of each term of ``term_names``. A weight of 0 removes the term, and the modules that only
            this term needs.
        warmup_epochs: over this many epochs the weights of the distillation terms rise linearly from 0; 0 is no warm-up.

    Raises:
        UserError: an unknown, missing or negative weight; all weights 0; a negative warm-up.
    """

    views: ClassVar[str] = "one"
    """The views of an image in one training sample; a name in ``skinkd.data.views``."""

    term_names: ClassVar[tuple[str, ...]] = ("ce",)
    """The loss terms, by the paper's names."""

    distillation_terms: ClassVar[tuple[str, ...]] = ()
    """The terms whose weights ``warmup_epochs`` raises."""

    hard_label_terms: ClassVar[tuple[str, ...]] = ()
    """The terms that need one class for each image, and so no mixed batch (``augment.mix``)."""

    keeps_memory: ClassVar[bool] = False
    """Whether the method remembers something of each training image. Its ``__init__`` then takes ``image_labels``: int64 (N,),
    the label of the training image of each ``Batch.index``."""

    trains_exits: ClassVar[bool] = False
    """Whether the loss reaches the exits of a hybrid network; where it does not, the exits are frozen."""

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
    ) -> None:
        super().__init__()
        self._check_names()
        self._check_weights(loss_weights)
        if warmup_epochs < 0:
            raise UserError(f"method.warmup_epochs={warmup_epochs} is negative; use 0 for no warm-up")
        freeze_exits = getattr(network, "freeze_exits", None)
        if freeze_exits and not self.trains_exits:
            freeze_exits()
        self.network = network
        self.criterion = criterion
        self.loss_weights = {name: float(weight) for name, weight in loss_weights.items()}
        self.warmup_epochs = warmup_epochs
        self.terms = TermMeter()
        self._optimizer = optimizer
        self._schedule = schedule

    def _check_names(self) -> None:
        for names in ("term_names", "distillation_terms", "hard_label_terms"):
            if isinstance(getattr(self, names), str):
                raise UserError(
                    f"{type(self).__name__}.{names}={getattr(self, names)!r} is a text and no tuple; write {names} = "
                    f"({getattr(self, names)!r},), with a comma"
                )
            for name in set(getattr(self, names)) - set(self.term_names):
                raise UserError(
                    f"{type(self).__name__}.{names} names {name}, which is not in term_names{nearest(name, self.term_names)}"
                )

    def _check_weights(self, loss_weights: dict[str, float]) -> None:
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

    # ---------------------------------------------------------------- training

    def uses(self, term: str) -> bool:
        """Whether the weight of the term is above 0."""
        return self.loss_weights[term] > 0

    def combine(self, **terms: Callable[[], Tensor]) -> Tensor:
        """Return the loss of a training step: the weighted sum of its terms.

        Terms are computed in the given order; a term of weight 0 is not computed. Each is logged without its weight.

        Args:
            terms: for each name of ``term_names``, a function that returns the term, a scalar.

        Raises:
            UserError: the names are not those of ``term_names``, or a term is no scalar.
        """
        if set(terms) != set(self.term_names):
            raise UserError(
                f"training_step of {type(self).__name__} gives the terms {', '.join(sorted(terms))}, and its term_names are "
                f"{', '.join(sorted(self.term_names))}; combine needs each of them once"
            )
        for name, term in terms.items():
            if not callable(term):
                raise UserError(
                    f"training_step of {type(self).__name__} gives combine the term {name} as a value, and a term is a "
                    f"function, so that it is not computed at weight 0; write {name}=lambda: …"
                )
        values = {name: term() for name, term in terms.items() if self.uses(name)}
        for name, value in values.items():
            if not isinstance(value, Tensor):
                raise UserError(
                    f"the term {name} of {type(self).__name__} is a {type(value).__name__}, and a term is a scalar tensor; "
                    "return the tensor itself, without item() or float()"
                )
            if value.ndim:
                raise UserError(
                    f"the term {name} of {type(self).__name__} has the shape {tuple(value.shape)}, and a term is a scalar; "
                    "return its mean over the batch"
                )
        ramp = self._ramp()
        weights = {
            name: self.loss_weights[name] * (ramp if name in self.distillation_terms else 1.0) for name in values
        }
        loss = torch.stack([weights[name] * value for name, value in values.items()]).sum()
        self.terms.update({**values, "loss": loss}, self.trainer.global_step)
        if self.logs_step:
            # without prog_bar, with which Lightning reads the value from the device
            self.log_dict({f"train/{name}": value.detach() for name, value in {**values, "loss": loss}.items()})
        return loss

    @property
    def logs_step(self) -> bool:
        """Whether Lightning hands the values of this step to the loggers. At any other step nobody would read them."""
        return (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    def _ramp(self) -> float:
        if not self.warmup_epochs:
            return 1.0
        return min(self.trainer.global_step / (self.warmup_epochs * self._steps_per_epoch()), 1.0)

    def _steps_per_epoch(self) -> int:
        epochs = self.trainer.max_epochs or 1
        return max(int(self.trainer.estimated_stepping_batches) // epochs, 1)

    def on_train_epoch_start(self) -> None:
        self.terms.reset()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if not outputs:  # Lightning would go on without training
            raise UserError(
                f"training_step of {type(self).__name__} returns no loss; end it with return self.combine(…)"
            )

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
        schedule = self._schedule(optimizer, epochs=self.trainer.max_epochs, steps_per_epoch=self._steps_per_epoch())
        if "monitor" in (schedule or {}):  # measured at the end of these epochs only
            schedule["frequency"] = self.trainer.check_val_every_n_epoch
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    # ---------------------------------------------------------------- predictions

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K) of the deployed network for images (B, 3, H, W), uint8 or float in [0, 1]."""
        return self.network(image)

    def predict(self, image: Tensor) -> dict[str, Tensor]:
        """Logits (B, K) of each output that is scored: the deployed network's under ``""``, its exits' by their names."""
        return {"": self(image)}

    def probabilities(self, image: Tensor) -> dict[str, Tensor]:
        """Class probabilities (B, K), float32, of each output of ``predict``.

        The pass is in float32 whatever the precision of training, as that of the deployed network is.
        """
        with torch.autocast(image.device.type, enabled=False):
            logits = self.predict(image)
        return {name: output.float().softmax(dim=1) for name, output in logits.items()}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return self.probabilities(batch.image)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return self.probabilities(batch.image)
