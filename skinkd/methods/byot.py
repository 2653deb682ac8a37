"""BYOT, "be your own teacher": the last stage teaches auxiliary heads on the stages before it; teacher-free.

Source: Zhang et al., ICCV 2019.
"""

from typing import Any

from torch import Tensor, nn

from skinkd.batch import Batch
from skinkd.errors import check_positive
from skinkd.losses.feature import hint_loss
from skinkd.losses.logit import kl_divergence
from skinkd.methods.base import Method
from skinkd.methods.terms import total
from skinkd.models.backbone import Backbone
from skinkd.models.heads import AuxiliaryHead


class BYOT(Method):
    """L = CE(z_S, y) + Σ_k [(1 − α) · CE(z_k, y) + α · KL_T(sg z_S ‖ z_k) + λ · mean (φ_k F_k − sg F_S)²], k < S.

    The feature term is a mean over all elements (ours), so that λ does not depend on the shape; the paper has the squared L2
    norm. The heads exist in training only; ``network`` alone is deployed.

    Args:
        temperature: T.
        head_reduction: reduction of the auxiliary heads' bottleneck.

    The loss weights are ``ce`` (of the last stage), ``ce_heads`` (1 − α), ``kd`` (α) and ``feature`` (λ).
    """

    term_names = ("ce", "ce_heads", "kd", "feature")
    distillation_terms = ("kd", "feature")

    network: Backbone

    def __init__(self, network: Backbone, *, temperature: float, head_reduction: int, **protocol: Any) -> None:
        super().__init__(network, **protocol)
        self.temperature = check_positive("method.temperature", temperature)
        *earlier, last = network.stage_shapes
        classes = network.num_classes
        self.heads = nn.ModuleList(
            AuxiliaryHead(shape, last, num_classes=classes, reduction=head_reduction) for shape in earlier
        )
        by_logits = self.uses("ce_heads") or self.uses("kd")
        if not by_logits:  # no term reaches the classifiers
            for head in self.heads:
                head.classifier.requires_grad_(False)
            if not self.uses("feature"):
                self.heads = nn.ModuleList()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = batch.image[:, 0], batch.label
        features = self.network.features(image)
        outputs = [head(stage) for head, stage in zip(self.heads, features.stages, strict=False)]
        return self.combine(
            ce=lambda: self.criterion(features.logits, label),
            ce_heads=lambda: total(self.criterion(z, label) for _, z in outputs),
            kd=lambda: total(kl_divergence(z, features.logits, temperature=self.temperature) for _, z in outputs),
            feature=lambda: total(hint_loss(aligned, features.stages[-1]) for aligned, _ in outputs),
        )
