"""TSS-KD: temperature-scaling self-distillation between two views of one image; teacher-free.

Source: Liu et al., Neurocomputing 638:130115 (2025), and the behaviour of its public code. Its regional gamma augmentation
is ``augment=rga``; its classifier head is ``backbone.head=mlp``.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from skinkd.batch import Batch
from skinkd.errors import UserError
from skinkd.losses.logit import centre, class_temperature_kl
from skinkd.methods.base import Method
from skinkd.models.backbone import Backbone


class TSSKD(Method):
    """One view of an image teaches the other through the same network, with a temperature for each class.

    L = CE(z, y) + λ · T² · KL(softmax(z_teacher/τ) ‖ softmax(z/τ)), τ_j = T where j = y, r·T elsewhere.

    Both views pass in train mode, as published, so that the teacher's view moves BatchNorm's running statistics too. With
    a temperature for each class softmax is not invariant to shifts, and the term starts large; ``warmup_epochs`` can ramp
    it. ``ratio=1`` is plain two-view distillation, the control.

    Args:
        temperature: T.
        ratio: r.
        centre_logits: give the logits of each view mean 0 in each image before the term kd (ours). Stored runs may be older
            than the setting.

    The loss weights are ``ce`` and ``kd`` (λ).
    """

    views: ClassVar[str] = "two"
    term_names = ("ce", "kd")
    distillation_terms = ("kd",)
    hard_label_terms = ("kd",)  # the true class has a temperature of its own

    def __init__(
        self, network: Backbone, *, temperature: float, ratio: float, centre_logits: bool = False, **protocol: Any
    ) -> None:
        super().__init__(network, **protocol)
        for name, value in (("temperature", temperature), ("ratio", ratio)):
            if value <= 0:
                raise UserError(
                    f"method.{name}={value} must be above 0; the paper's values are temperature=4, ratio=0.1"
                )
        self.temperature = temperature
        self.ratio = ratio
        self.centre_logits = centre_logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        (teacher_view, student_view), label = batch.image.unbind(dim=1), batch.label
        logits = self.network(student_view)
        return self.combine(
            ce=lambda: self.criterion(logits, label),
            kd=lambda: class_temperature_kl(
                self.comparable(logits),
                self.comparable(self._without_gradient(teacher_view)),
                label,
                temperature=self.temperature,
                ratio=self.ratio,
            ),
        )

    def comparable(self, logits: Tensor) -> Tensor:
        """The logits (B, K) as the term between the views takes them."""
        return centre(logits) if self.centre_logits else logits

    @torch.no_grad()
    def _without_gradient(self, image: Tensor) -> Tensor:
        return self.network(image)
