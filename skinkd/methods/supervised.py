"""Training on hard labels alone: the baseline that every method is compared with, on the same deployed network."""

from torch import Tensor

from skinkd.batch import Batch
from skinkd.methods.base import Method


class Supervised(Method):
    """L = CE(z, y)."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = batch.image[:, 0], batch.label
        return self.combine(ce=lambda: self.criterion(self.network(image), label))
