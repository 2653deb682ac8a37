"""D-KD: diverse knowledge distillation, SSD-KD without its self-supervision; a baseline of the same paper.

Source: Wang et al., Medical Image Analysis 84:102693 (2023), and its public code.
"""

from typing import Any

from torch import Tensor

from skinkd.batch import Batch
from skinkd.errors import check_positive
from skinkd.losses.feature import channel_relation
from skinkd.losses.logit import kl_divergence
from skinkd.losses.relational import rkd_angle, rkd_distance
from skinkd.methods.taught import LogitTaught
from skinkd.models.backbone import Backbone
from skinkd.models.heads import ChannelRegressor


class DiverseKD(LogitTaught):
    """L = λ_ce · CE + λ_kd · KL_T + λ_d · RKD-D + λ_a · RKD-A + λ_c · channel relation.

    The relational losses compare pooled features. The channel relation compares the last stages; a regressor brings the
    student's to the shape of the teacher's.

    Args:
        temperature: T.

    The loss weights are ``ce``, ``kd``, ``rkd_distance``, ``rkd_angle`` and ``channel_relation``.
    """

    term_names = ("ce", "kd", "rkd_distance", "rkd_angle", "channel_relation")
    distillation_terms = term_names[1:]
    logit_terms = ("ce", "kd")

    network: Backbone

    def __init__(self, network: Backbone, *, temperature: float, **protocol: Any) -> None:
        super().__init__(network, **protocol)
        self.temperature = check_positive("method.temperature", temperature)
        if self.uses("channel_relation"):
            self.regressor = ChannelRegressor(network.stage_shapes[-1], self.teacher.stage_shapes[-1])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = batch.image[:, 0], batch.label
        student, teacher = self.network.features(image), self.teacher(image)
        z, z_t = self.comparable(student.logits), self.comparable(teacher.logits)
        return self.combine(
            ce=lambda: self.criterion(student.logits, label),
            kd=lambda: kl_divergence(z, z_t, temperature=self.temperature),
            rkd_distance=lambda: rkd_distance(student.pooled, teacher.pooled),
            rkd_angle=lambda: rkd_angle(student.pooled, teacher.pooled),
            channel_relation=lambda: channel_relation(self.regressor(student.stages[-1]), teacher.stages[-1]),
        )
