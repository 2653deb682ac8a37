"""ReviewKD: a stage of the student, together with its deeper stages, learns the teacher's map at that depth.

Source: Chen et al., CVPR 2021, and its public code.
"""

from typing import Any

from torch import Tensor

from skinkd.batch import Batch
from skinkd.losses.feature import hierarchical_context_loss
from skinkd.methods.taught import Taught
from skinkd.methods.terms import total
from skinkd.models.backbone import Backbone, Features
from skinkd.models.review import Review


class ReviewKD(Taught):
    """L = CE(z, y) + λ · Σ_k HCL(R_k, F_k,t), R_k the student's map k fused with the deeper maps.

    The maps are the stages, and the pooled features as a last map of 1×1. Stages are paired from the last backwards.

    The loss weights are ``ce`` and ``review`` (λ).
    """

    term_names = ("ce", "review")
    distillation_terms = ("review",)
    logit_terms = ("ce",)

    network: Backbone

    def __init__(self, network: Backbone, **protocol: Any) -> None:
        super().__init__(network, **protocol)
        self.depth = min(len(network.stage_shapes), len(self.teacher.stage_shapes))
        if self.uses("review"):
            self.review = Review(
                [*network.stage_shapes[-self.depth :], (network.feature_dim, 1, 1)],
                [*self.teacher.stage_shapes[-self.depth :], (self.teacher.network.feature_dim, 1, 1)],
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = batch.image[:, 0], batch.label
        student = self.network.features(image)
        return self.combine(
            ce=lambda: self.criterion(student.logits, label),
            review=lambda: self._review_loss(student, self.teacher(image)),
        )

    def _review_loss(self, student: Features, teacher: Features) -> Tensor:
        reviewed, maps = self.review(self._maps(student)), self._maps(teacher)
        return total(hierarchical_context_loss(ours, theirs) for ours, theirs in zip(reviewed, maps, strict=True))

    def _maps(self, features: Features) -> list[Tensor]:
        return [*features.stages[-self.depth :], features.pooled[:, :, None, None]]
