"""DKD: decoupled knowledge distillation. The true class and the other classes have a divergence and a weight each.

Source: Zhao et al., CVPR 2022.
"""

from typing import Any

from torch import Tensor

from skinkd.batch import Batch
from skinkd.errors import check_positive, check_range
from skinkd.losses.logit import decoupled_kd
from skinkd.methods.taught import LogitTaught
from skinkd.models.backbone import Backbone


class DKD(LogitTaught):
    """L = λ_ce · CE(z, y) + λ_dkd · T² · (α · TCKD + β · NCKD).

    Args:
        temperature: T.
        alpha: α, weight of the divergence between true class and the rest.
        beta: β, weight of the divergence among the other classes.

    The loss weights are ``ce`` and ``dkd``.
    """

    term_names = ("ce", "dkd")
    distillation_terms = ("dkd",)
    hard_label_terms = ("dkd",)  # TCKD and NCKD part the true class from the others

    def __init__(self, network: Backbone, *, temperature: float, alpha: float, beta: float, **protocol: Any) -> None:
        super().__init__(network, **protocol)
        self.temperature = check_positive("method.temperature", temperature)
        check_range("method.alpha", alpha, low=0)
        check_range("method.beta", beta, low=0)
        self.alpha, self.beta = alpha, beta

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = batch.image[:, 0], batch.label
        logits = self.network(image)
        return self.combine(
            ce=lambda: self.criterion(logits, label),
            dkd=lambda: decoupled_kd(
                self.comparable(logits),
                self.comparable(self.teacher(image).logits),
                label,
                alpha=self.alpha,
                beta=self.beta,
                temperature=self.temperature,
            ),
        )
