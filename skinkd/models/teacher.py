"""A frozen teacher: always in eval mode, and without gradients."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skinkd.models.backbone import Backbone, Features
from skinkd.models.fold import fold_batch_norms


class Teacher(nn.Module):
    """A trained network that nothing changes.

    It stays in eval mode, so that BatchNorm's statistics never move. Its parameters and its pass have no gradients. A copy of
    the method shares it: an average of the student's weights needs no second teacher.

    Args:
        network: offers ``features(image)`` and ``num_classes``.
        image_size: height and width the teacher was trained at; images of another size are resized (bilinear,
            antialiased) before its pass. Its normalisation is inside ``network``.
        bf16: run the pass in bfloat16 autocast, whatever the student's precision. Pooled features and logits become float32
            again. Stages and exits stay in bfloat16, because only losses read them.
    """

    def __init__(self, network: Backbone, *, image_size: int, bf16: bool) -> None:
        super().__init__()
        self.network: Backbone = network
        self.image_size = image_size
        self.bf16 = bf16
        self.projector: nn.Module | None = None
        self.requires_grad_(False)
        super().train(False)

    @property
    def stage_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(C, H, W) of the stages that its pass gives."""
        return tuple(self.network.stage_shapes)

    def use_bf16(self) -> None:
        """Run the pass in bfloat16 from now on, with as little work as possible.

        Batch normalisations are folded into their convolutions in float32, and the network holds its weights in bfloat16,
        to which autocast would round them at each step. A layer that computes with its weights before it convolves
        keeps them in float32.
        """
        self.bf16 = True
        blank = torch.zeros(1, 3, self.image_size, self.image_size, dtype=torch.uint8)
        self.network = fold_batch_norms(self.network, blank, run="features").requires_grad_(False).eval()
        for module in self.network.modules():
            if type(module) in (nn.Conv2d, nn.Linear):
                module.to(torch.bfloat16)

    def add_projector(self, projector: nn.Module) -> None:
        """Add a trained head on the pooled features, frozen like the rest; ``project`` runs it."""
        self.projector = projector.requires_grad_(False).eval()

    @torch.no_grad()
    def project(self, pooled: Tensor) -> Tensor:
        """Output of the projector, without gradients, for pooled features (B, D)."""
        if self.projector is None:
            raise ValueError("this teacher has no projector")
        return self.projector(pooled)

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Teacher":
        return self

    @torch.no_grad()
    def forward(self, image: Tensor) -> Features:
        """Stages, pooled features and logits, without gradients, of images (B, 3, H, W), uint8 or float in [0, 1]."""
        if image.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            image = image.float() / 255 if image.dtype == torch.uint8 else image
            image = F.interpolate(image, size=size, mode="bilinear", antialias=True)
        # without bf16 the pass follows the precision of the training step
        precision = torch.autocast(image.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()
        with precision:
            features = self.network.features(image)
        if not self.bf16:
            return features
        # the projector reads the pooled features in the student's precision; losses widen the stages, which are large
        return features._replace(pooled=features.pooled.float(), logits=features.logits.float())
