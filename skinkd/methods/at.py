"""AT: attention transfer; the student's maps are to be strong where the teacher's are.

Source: Zagoruyko and Komodakis, ICLR 2017, and their code.
"""

import torch
from torch import Tensor

from skinkd.batch import Batch
from skinkd.losses.feature import attention_transfer
from skinkd.methods.taught import Taught
from skinkd.models.backbone import Backbone


class AT(Taught):
    """L = λ_ce · CE(z, y) + λ_at · Σ_k mean_b,hw (Q(F_k) − Q(F_k,t))², Q the normalised attention map.

    Stages are paired from the last backwards, as many as both networks have.

    The loss weights are ``ce`` and ``at`` (β).
    """

    term_names = ("ce", "at")
    distillation_terms = ("at",)
    logit_terms = ("ce",)

    network: Backbone

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = batch.image[:, 0], batch.label
        student = self.network.features(image)
        terms = {}
        if self.uses("ce"):
            terms["ce"] = self.criterion(student.logits, label)
        if self.uses("at"):
            # the deeper network may have more stages: from the last backwards
            pairs = zip(reversed(student.stages), reversed(self.teacher(image).stages), strict=False)
            terms["at"] = torch.stack([attention_transfer(map, hint) for map, hint in pairs]).sum()
        return self.combine(**terms)
