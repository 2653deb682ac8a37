"""MSKD: multi-stage knowledge distillation between hybrid networks.

The teacher's branches teach the student's exits, and the teacher's final classifier teaches the student's. In the
single-stage form the weight of ``intermediate`` is 0.

Source: Pavel et al., Scientific Reports 15:39792 (2025), and its public code.
"""

from typing import Any

from torch import Tensor

from skinkd.batch import Batch
from skinkd.errors import UserError, check_positive
from skinkd.losses.logit import kl_divergence, soft_cross_entropy
from skinkd.methods.taught import LogitTaught
from skinkd.models.hybrid import HybridStudent, HybridTeacher


class MSKD(LogitTaught):
    """L = α · ½ [CE(softmax t_attention, s₁) + CE(softmax t_conv, s₂)] + β · KL_T(t ‖ s) + γ · CE(y, s).

    t_attention and t_conv are the logits of the teacher's branches, s₁ and s₂ those of the student's exits.

    Args:
        temperature: T.

    The loss weights are ``intermediate`` (α), ``logit`` (β) and ``classification`` (γ).

    Raises:
        UserError: the network has no two exits; or α is above 0, and the teacher has no two branches.
    """

    term_names = ("intermediate", "logit", "classification")
    distillation_terms = ("intermediate", "logit")
    logit_terms = ("classification", "logit")
    trains_exits = True
    network: HybridStudent

    def __init__(self, network: HybridStudent, *, temperature: float, **protocol: Any) -> None:
        if not isinstance(network, HybridStudent):
            raise UserError("method=mskd trains a network with two exits; set backbone=mskd_student")
        super().__init__(network, **protocol)
        self.temperature = check_positive("method.temperature", temperature)
        if self.uses("intermediate") and not isinstance(self.teacher.network, HybridTeacher):
            raise UserError(
                "method.teacher: this teacher has no two branches for method.loss_weights.intermediate; give one trained "
                "by method=mskd_teacher, or set the weight to 0"
            )
        if not self.uses("intermediate"):
            network.freeze_exits()  # no term reaches them, but through the final classifier
        self.exits_learn = self.uses("intermediate") or network.fusion == "logits"

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = batch.image[:, 0], batch.label
        student, teacher = self.network.features(image), self.teacher(image)
        z, z_t = self.comparable(student.logits), self.comparable(teacher.logits)
        return self.combine(
            intermediate=lambda: self._branches_to_exits(student.exits, teacher.exits),
            logit=lambda: kl_divergence(z, z_t, temperature=self.temperature),
            classification=lambda: self.criterion(student.logits, label),
        )

    def _branches_to_exits(self, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        exits, branches = (
            {name: self.comparable(logits) for name, logits in found.items()} for found in (student, teacher)
        )
        return branches_to_exits(exits, branches)

    def predict(self, image: Tensor) -> dict[str, Tensor]:
        features = self.network.features(image)
        # an exit that no term trains is a random classifier
        return {"": features.logits, **(features.exits if self.exits_learn else {})}


def branches_to_exits(student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
    """½ [CE(softmax t_attention, s₁) + CE(softmax t_conv, s₂)], a scalar, of the exits' and branches' logits (B, K)."""
    attention = soft_cross_entropy(student["exit_1"], teacher["attention_branch"])
    conv = soft_cross_entropy(student["exit_2"], teacher["conv_branch"])
    return (attention + conv) / 2
