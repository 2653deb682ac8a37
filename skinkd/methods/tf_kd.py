"""Tf-KD, teacher-free knowledge distillation: a distribution written by hand in the place of a teacher's.

Source: Yuan et al., CVPR 2020, the regularisation form (Tf-KD_reg). The self-training form is ``method=tf_kd_self``: KD from
a network of the same kind.
"""

from typing import Any

from torch import Tensor

from skinkd.batch import Batch
from skinkd.errors import UserError, check_positive
from skinkd.losses.logit import virtual_teacher_kl
from skinkd.methods.base import Method
from skinkd.models.backbone import Backbone


class TfKD(Method):
    """L = λ_ce · CE(z, y) + λ_virtual · KL(softmax(u / T) ‖ softmax(z)), u the virtual teacher.

    Args:
        correct_probability: u of the true class.
        temperature: T.

    The loss weights are ``ce`` (1 − α) and ``virtual`` (α).
    """

    term_names = ("ce", "virtual")
    distillation_terms = ("virtual",)
    hard_label_terms = ("virtual",)  # u is high at one class

    network: Backbone

    def __init__(self, network: Backbone, *, correct_probability: float, temperature: float, **protocol: Any) -> None:
        super().__init__(network, **protocol)
        self.temperature = check_positive("method.temperature", temperature)
        if not 1 / network.num_classes < correct_probability < 1:
            raise UserError(
                f"method.correct_probability={correct_probability} is out of range; it must be above 1/{network.num_classes}, "
                "the share of each of the classes, and below 1"
            )
        self.correct_probability = correct_probability

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = batch.image[:, 0], batch.label
        logits = self.network(image)
        return self.combine(
            ce=lambda: self.criterion(logits, label),
            virtual=lambda: virtual_teacher_kl(
                logits, label, correct_probability=self.correct_probability, temperature=self.temperature
            ),
        )
