"""DIST: distillation from a stronger teacher. Predictions follow the teacher's up to scale and shift.

Source: Huang et al., NeurIPS 2022, and its public code.
"""

from typing import Any

from torch import Tensor

from skinkd.batch import Batch
from skinkd.errors import check_positive
from skinkd.losses.relational import inter_class_relation, intra_class_relation
from skinkd.methods.taught import Taught
from skinkd.models.backbone import Backbone


class DIST(Taught):
    """L = CE(z, y) + β · L_inter + γ · L_intra.

    L_inter is one minus the correlation over the classes, L_intra one minus the correlation over the images of the batch.

    Args:
        temperature: T.

    The loss weights are ``ce``, ``inter`` (β) and ``intra`` (γ).
    """

    term_names = ("ce", "inter", "intra")
    distillation_terms = ("inter", "intra")

    def __init__(self, network: Backbone, *, temperature: float, **protocol: Any) -> None:
        super().__init__(network, **protocol)
        self.temperature = check_positive("method.temperature", temperature)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = batch.image[:, 0], batch.label
        z, z_t = self.network(image), self.teacher(image).logits
        return self.combine(
            ce=lambda: self.criterion(z, label),
            inter=lambda: inter_class_relation(z, z_t, temperature=self.temperature),
            intra=lambda: intra_class_relation(z, z_t, temperature=self.temperature),
        )
