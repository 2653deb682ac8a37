"""CS-KD: class-wise self-knowledge distillation. An image's prediction follows that of another image of its class.

Source: Yun et al., CVPR 2020, and its public code.
"""

from typing import Any

import torch
from torch import Tensor

from skinkd.batch import Batch
from skinkd.errors import check_positive
from skinkd.losses.logit import kl_divergence
from skinkd.methods.base import Method
from skinkd.models.backbone import Backbone


class CSKD(Method):
    """L = CE(z, y) + λ_cls · KL_T(sg z' ‖ z), z' the logits of another image of the class y.

    Args:
        temperature: T.

    The loss weights are ``ce`` and ``cls`` (λ_cls).
    """

    views = "class_pair"
    term_names = ("ce", "cls")
    distillation_terms = ("cls",)
    hard_label_terms = ("cls",)  # a mixed image has no class of which there is another image

    network: Backbone

    def __init__(self, network: Backbone, *, temperature: float, **protocol: Any) -> None:
        super().__init__(network, **protocol)
        self.temperature = check_positive("method.temperature", temperature)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, of_same_class, label = batch.image[:, 0], batch.image[:, 1], batch.label
        logits = self.network(image)
        return self.combine(
            ce=lambda: self.criterion(logits, label),
            cls=lambda: kl_divergence(logits, self._constant_logits(of_same_class), temperature=self.temperature),
        )

    @torch.no_grad()
    def _constant_logits(self, image: Tensor) -> Tensor:
        """Logits without a gradient. The network stays in training mode, as in the published code."""
        return self.network(image)
