"""CRD: contrastive representation distillation. An image's two embeddings are close, those of other classes far.

Source: Tian et al., ICLR 2020, and its public code.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from skinkd.batch import Batch
from skinkd.errors import check_positive, check_range
from skinkd.losses.contrastive import noise_contrastive_loss
from skinkd.methods.contrast_memory import ContrastMemory
from skinkd.methods.taught import Taught
from skinkd.models.backbone import Backbone


class CRD(Taught):
    """L = CE(z, y) + λ · (NCE of the student against remembered teachers + NCE of the teacher against remembered students).

    Both networks' pooled features have a linear embedding of unit length, which is trained. The negatives of an image are
    remembered embeddings of images of other classes.

    Args:
        width: of the embeddings.
        negatives: M, for each image.
        temperature: τ.
        momentum: share of an image's old embedding in its new one in the memory.
        image_labels: of the training images, (N,).

    The loss weights are ``ce`` and ``crd`` (λ). The memory is in the checkpoint.
    """

    term_names = ("ce", "crd")
    distillation_terms = ("crd",)
    logit_terms = ("ce",)
    hard_label_terms = ("crd",)  # a mixed image has no classes that all others lack
    keeps_memory = True

    network: Backbone

    def __init__(
        self,
        network: Backbone,
        *,
        width: int,
        negatives: int,
        temperature: float,
        momentum: float,
        image_labels: Tensor,
        **protocol: Any,
    ) -> None:
        super().__init__(network, **protocol)
        check_range("method.width", width, low=1)
        check_range("method.negatives", negatives, low=1)
        check_range("method.momentum", momentum, low=0, high=1)
        self.temperature = check_positive("method.temperature", temperature)
        if self.uses("crd"):
            self.embed = nn.Linear(network.feature_dim, width)
            self.embed_teacher = nn.Linear(self.teacher.network.feature_dim, width)
            self.memory = ContrastMemory(image_labels, width=width, negatives=negatives, momentum=momentum)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = batch.image[:, 0], batch.label
        student = self.network.features(image)
        return self.combine(
            ce=lambda: self.criterion(student.logits, label),
            crd=lambda: self._contrast(student.pooled, self.teacher(image).pooled, batch.index),
        )

    def _contrast(self, pooled: Tensor, teacher_pooled: Tensor, index: Tensor) -> Tensor:
        v, v_t = F.normalize(self.embed(pooled).float()), F.normalize(self.embed_teacher(teacher_pooled).float())
        scores, scores_t = self.memory(v, v_t, index, step=self.trainer.global_step, temperature=self.temperature)
        images = len(self.memory.label)
        return noise_contrastive_loss(*scores, images=images) + noise_contrastive_loss(*scores_t, images=images)
