"""KD: knowledge distillation from a teacher's softened logits; the baseline called BLKD by SSD-KD's authors.

Source: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015).
"""

from typing import Any

from torch import Tensor

from skinkd.batch import Batch
from skinkd.errors import check_positive
from skinkd.losses.logit import kl_divergence
from skinkd.methods.taught import LogitTaught
from skinkd.models.backbone import Backbone


class KD(LogitTaught):
    """L = λ_ce · CE(z, y) + λ_kd · KL_T(z_t ‖ z), KL_T with its factor T².

    Args:
        temperature: T.

    The loss weights are ``ce`` and ``kd``.
    """

    term_names = ("ce", "kd")
    distillation_terms = ("kd",)

    def __init__(self, network: Backbone, *, temperature: float, **protocol: Any) -> None:
        super().__init__(network, **protocol)
        self.temperature = check_positive("method.temperature", temperature)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = batch.image[:, 0], batch.label
        logits = self.network(image)
        return self.combine(
            ce=lambda: self.criterion(logits, label),
            kd=lambda: kl_divergence(
                self.comparable(logits), self.comparable(self.teacher(image).logits), temperature=self.temperature
            ),
        )
