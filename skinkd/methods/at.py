"""AT: attention transfer. The student's feature maps learn to be strong where the teacher's are strong.

Source: Zagoruyko and Komodakis, ICLR 2017, and their code.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor

from skinkd.batch import Batch
from skinkd.losses.feature import attention_transfer
from skinkd.methods.taught import Taught
from skinkd.methods.terms import total
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
        return self.combine(
            ce=lambda: self.criterion(student.logits, label),
            at=lambda: total(attention_transfer(*pair) for pair in paired(student.stages, self.teacher(image).stages)),
        )


def paired(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pair the stages of two networks from the last backwards; the first stages of the deeper network have no partner."""
    return zip(reversed(student), reversed(teacher), strict=False)
