"""FitNet: a regressor on a stage of the student learns to give the teacher's feature map, the hint.

Source: Romero et al., ICLR 2015. There the hint trains the lower half of the student first, and distillation of the logits
follows. Here the hint is a term next to the cross-entropy, as in later comparisons (Tian et al., ICLR 2020).
"""

from typing import Any

from torch import Tensor

from skinkd.batch import Batch
from skinkd.errors import check_range
from skinkd.losses.feature import hint_loss
from skinkd.methods.taught import Taught
from skinkd.models.backbone import Backbone
from skinkd.models.heads import ChannelRegressor


class FitNet(Taught):
    """L = λ_ce · CE(z, y) + λ_hint · mean (r(F_k) − F_k,t)².

    Args:
        stage: k, counted from 1, the same in both networks.

    The loss weights are ``ce`` and ``hint``.
    """

    term_names = ("ce", "hint")
    distillation_terms = ("hint",)
    logit_terms = ("ce",)

    network: Backbone

    def __init__(self, network: Backbone, *, stage: int, **protocol: Any) -> None:
        super().__init__(network, **protocol)
        shapes, hints = network.stage_shapes, self.teacher.stage_shapes
        check_range("method.stage", stage, low=1, high=min(len(shapes), len(hints)))
        self.stage = stage
        if self.uses("hint"):
            self.regressor = ChannelRegressor(shapes[stage - 1], hints[stage - 1])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label, k = batch.image[:, 0], batch.label, self.stage - 1
        student = self.network.features(image)
        return self.combine(
            ce=lambda: self.criterion(student.logits, label),
            hint=lambda: hint_loss(self.regressor(student.stages[k]), self.teacher(image).stages[k]),
        )
