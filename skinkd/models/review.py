"""The review of ReviewKD: a student's stages, deep to shallow, are fused and brought to the shapes of the teacher's."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skinkd.models.heads import Shape, conv_bn

WIDTH = 512  # at most so many channels in between, as in the published code


class Fusion(nn.Module):
    """The attention based fusion (ABF) of Chen et al., CVPR 2021, section 3.3.

    Args:
        in_channels: of the student's stage.
        width: of the fused map.
        out_shape: (C, H, W) of the teacher's stage.
        fuses: whether a deeper map is fused in; the deepest stage has none.
    """

    def __init__(self, in_channels: int, *, width: int, out_shape: Shape, fuses: bool) -> None:
        super().__init__()
        self.size = out_shape[1:]
        self.enter = conv_bn(in_channels, width, kernel=1, stride=1)
        self.leave = conv_bn(width, out_shape[0], kernel=3, stride=1)
        for convolution in (self.enter[0], self.leave[0]):
            nn.init.kaiming_uniform_(convolution.weight, a=1)  # type: ignore[arg-type]
        self.attention = nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid()) if fuses else None

    def forward(self, stage: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """The map in the teacher's shape, and the fused map (B, width, H, W) for the next shallower stage.

        Args:
            stage: (B, in_channels, H_s, W_s).
            deeper: the fused map of the next deeper stage; None for the deepest.
        """
        fused = self.enter(stage)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, fused.shape[2:], mode="nearest")
            share = self.attention(torch.cat([fused, deeper], dim=1))
            fused = fused * share[:, :1] + deeper * share[:, 1:]
        if fused.shape[2:] != self.size:
            fused = F.interpolate(fused, self.size, mode="nearest")
        return self.leave(fused), fused


class Review(nn.Module):
    """A student's maps in the shapes of the teacher's, each with what the deeper stages know.

    Args:
        in_shapes: (C, H, W) of the student's maps, shallow to deep.
        out_shapes: those of the teacher's maps, as many.
    """

    def __init__(self, in_shapes: Sequence[Shape], out_shapes: Sequence[Shape]) -> None:
        super().__init__()
        width = min(WIDTH, in_shapes[-1][0])
        pairs = list(zip(in_shapes, out_shapes, strict=True))
        self.fusions = nn.ModuleList(
            Fusion(inner[0], width=width, out_shape=outer, fuses=place < len(pairs) - 1)
            for place, (inner, outer) in enumerate(pairs)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps in the teacher's shapes, shallow to deep, of the student's maps in the same order."""
        reviewed, fused = [], None
        for fusion, stage in zip(reversed(self.fusions), reversed(maps), strict=True):
            out, fused = fusion(stage, fused)
            reviewed.append(out)
        return reviewed[::-1]
