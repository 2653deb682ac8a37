"""PS-KD: progressive self-knowledge distillation. The targets are softened by the predictions of the last epoch.

Source: Kim et al., ICCV 2021, and its public code.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from skinkd.batch import Batch
from skinkd.errors import check_range
from skinkd.losses.classification import shared_cross_entropy
from skinkd.methods.base import Method
from skinkd.methods.memory import of_all_processes
from skinkd.models.backbone import Backbone


class PSKD(Method):
    """L = (1 − α_t) · CE(z, y) + α_t · H(p, softmax z), with α_t = α · t / T in epoch t of T, counted from 1.

    p is the image's prediction in the epoch before; its label in the first epoch. Without class weights this is the paper's
    cross-entropy against (1 − α_t) · y + α_t · p. Class weights act on the first term only (ours).

    Args:
        alpha: α, the share of p in the last epoch.
        image_labels: of the training images, (N,).

    The loss weights are ``ce`` and ``past``. The predictions are in the checkpoint.
    """

    term_names = ("ce", "past")
    hard_label_terms = ("past",)  # the prediction for a mixed image says nothing of the image it began with
    keeps_memory = True

    past: Tensor
    network: Backbone

    def __init__(self, network: Backbone, *, alpha: float, image_labels: Tensor, **protocol: Any) -> None:
        super().__init__(network, **protocol)
        check_range("method.alpha", alpha, low=0, high=1)
        self.alpha = alpha
        if self.uses("past"):
            self.register_buffer("past", F.one_hot(image_labels, network.num_classes).float())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = batch.image[:, 0], batch.label
        share = self._share_of_past() if self.uses("past") else 0.0
        logits = self.network(image)
        loss = self.combine(
            ce=lambda: (1 - share) * self.criterion(logits, label),
            past=lambda: share * shared_cross_entropy(logits, self.past[batch.index], weight=None, label_smoothing=0),
        )
        if self.uses("past"):
            self._remember(batch.index, logits)
        return loss

    def _share_of_past(self) -> float:
        """α_t of the current epoch."""
        return self.alpha * (self.trainer.current_epoch + 1) / (self.trainer.max_epochs or 1)

    @torch.no_grad()
    def _remember(self, index: Tensor, logits: Tensor) -> None:
        probability = logits.detach().to(self.past.dtype).softmax(dim=1)
        self.past[of_all_processes(index)] = of_all_processes(probability)
