"""The second stage of SSD-KD: the self-supervision head is trained on the frozen teacher.

Source: Wang et al., Medical Image Analysis 84:102693 (2023), and its public code.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from skinkd.batch import Batch
from skinkd.errors import UserError
from skinkd.losses.rotation import ROTATIONS, rotation_retrieval_loss
from skinkd.methods.taught import Taught
from skinkd.models.backbone import Backbone
from skinkd.models.heads import Projector


class SSDKDProjection(Taught):
    """L = CE of finding an image's upright view in the batch, from its view at 90°, 180° or 270°, by cosine similarity.

    ``network`` gets the teacher's weights and is not trained. The checkpoint, with network and projector, is then the teacher
    of SSD-KD's student. Validation logs the same loss as ``val/retrieval_loss``.

    Args:
        projector_width: width of both linear layers; None: that of the pooled features, as published.

    Raises:
        UserError: the teacher's network differs from ``network``, or was trained at another image size.
    """

    views: ClassVar[str] = "four_rotations"
    term_names = ("retrieval",)

    network: Backbone

    def __init__(self, network: Backbone, *, projector_width: int | None, **protocol: Any) -> None:
        super().__init__(network, **protocol)
        try:
            network.load_state_dict(self.teacher.network.state_dict())
        except RuntimeError as error:
            raise UserError(
                "backbone differs from the network of method.teacher, on which the self-supervision head is trained; give "
                f"backbone the name and options of that teacher, and data.image_size={self.teacher.image_size}"
            ) from error
        if network.stage_shapes != self.teacher.stage_shapes:
            raise self._other_size("this run has another")
        network.requires_grad_(False)
        width = projector_width or network.feature_dim
        self.projector = Projector(network.feature_dim, hidden_width=width, out_width=width)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if batch.image.shape[-1] != self.teacher.image_size:  # a size so close that all stages have the same shapes
            raise self._other_size(f"this run's is {batch.image.shape[-1]}")
        pooled = self.teacher(batch.image.flatten(0, 1)).pooled
        return self.combine(retrieval=lambda: rotation_retrieval_loss(self.projector(pooled)))

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        turned = [torch.rot90(batch.image, quarter, dims=(2, 3)) for quarter in range(ROTATIONS)]
        pooled = self.network.pool(torch.stack(turned, dim=1).flatten(0, 1))
        loss = rotation_retrieval_loss(self.projector(pooled))
        self.log("val/retrieval_loss", loss, batch_size=len(batch.label), sync_dist=True)
        return self.probabilities(batch.image)

    def _other_size(self, found: str) -> UserError:
        """The error for a head that would learn at the teacher's image size and be judged at the run's."""
        size = self.teacher.image_size
        return UserError(
            f"method.teacher: the self-supervision head is trained at the image size of its teacher, which is {size}, and "
            f"{found}; give data.image_size={size}, or +method.teacher.run.data.image_size={size} where this run is "
            "itself the teacher of method=ssdkd"
        )
