"""RKD: relational knowledge distillation; distances and angles between the samples of a batch.

Source: Park et al., CVPR 2019, with the weights of the SSD-KD code's baseline (Wang et al., 2023).
"""

from torch import Tensor

from skinkd.batch import Batch
from skinkd.losses.relational import rkd_angle, rkd_distance
from skinkd.methods.taught import Taught
from skinkd.models.backbone import Backbone


class RKD(Taught):
    """L = λ_ce · CE(z, y) + λ_d · RKD-D(f, f_t) + λ_a · RKD-A(f, f_t), f the pooled features.

    The loss weights are ``ce``, ``rkd_distance`` and ``rkd_angle``.
    """

    term_names = ("ce", "rkd_distance", "rkd_angle")
    distillation_terms = ("rkd_distance", "rkd_angle")
    logit_terms = ("ce",)

    network: Backbone

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = batch.image[:, 0], batch.label
        student, teacher = self.network.features(image), self.teacher(image)
        return self.combine(
            ce=lambda: self.criterion(student.logits, label),
            rkd_distance=lambda: rkd_distance(student.pooled, teacher.pooled),
            rkd_angle=lambda: rkd_angle(student.pooled, teacher.pooled),
        )
