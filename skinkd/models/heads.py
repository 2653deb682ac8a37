"""Heads for training only: bottlenecks, auxiliary classifiers, projectors, regressors."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, int, int]


def conv_bn(inputs: int, outputs: int, *, kernel: int, stride: int) -> nn.Sequential:
    """Convolution without bias, padded to keep the size at stride 1, then batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Aligner(nn.Sequential):
    """The bottleneck φ_k: a stage's map (C_k, H_k, W_k) to the shape (C, H, W) of another stage, usually the last.

    A 1×1 convolution to C / ``reduction`` channels; 3×3 convolutions of stride 2 while half the map is as large as the
    target (a single one of stride 1 if there is none); a 1×1 convolution to C. Each has batch normalisation, with ReLU
    between. Adaptive average pooling follows if the size still differs. The bottleneck of Be Your Own Teacher (Zhang et al.,
    ICCV 2019), for maps of any size; the details are ours.

    Args:
        in_shape: (C_k, H_k, W_k).
        out_shape: (C, H, W).
        reduction: C over the width of the bottleneck.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, *, reduction: int) -> None:
        width = max(out_shape[0] // reduction, 1)
        (height, breadth), target = in_shape[1:], out_shape[1:]
        middle: list[nn.Module] = []
        while (height, breadth) != target and (height + 1) // 2 >= target[0] and (breadth + 1) // 2 >= target[1]:
            height, breadth = (height + 1) // 2, (breadth + 1) // 2
            middle += [conv_bn(width, width, kernel=3, stride=2), nn.ReLU()]
        if not middle:
            middle = [conv_bn(width, width, kernel=3, stride=1), nn.ReLU()]
        super().__init__(
            conv_bn(in_shape[0], width, kernel=1, stride=1),
            nn.ReLU(),
            *middle,
            conv_bn(width, out_shape[0], kernel=1, stride=1),
            nn.Identity() if (height, breadth) == target else nn.AdaptiveAvgPool2d(target),
        )


class AuxiliaryHead(nn.Module):
    """A classifier on an intermediate stage: ``Aligner``, global average pooling, linear layer.

    Args:
        in_shape: (C_k, H_k, W_k) of the stage.
        out_shape: (C, H, W) of the last stage.
        num_classes: K.
        reduction: of the ``Aligner``.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, num_classes: int, *, reduction: int) -> None:
        super().__init__()
        self.align = Aligner(in_shape, out_shape, reduction=reduction)
        self.classifier = nn.Linear(out_shape[0], num_classes)

    def forward(self, stage: Tensor) -> tuple[Tensor, Tensor]:
        """The aligned map (B, C, H, W) and its logits (B, K), of a stage (B, C_k, H_k, W_k)."""
        aligned = self.align(stage)
        return aligned, self.classifier(aligned.mean(dim=(2, 3)))


class Projector(nn.Sequential):
    """Linear–ReLU–Linear on pooled features (B, D): the self-supervision head of SSD-KD.

    Wang et al., Medical Image Analysis 84:102693 (2023).
    """

    def __init__(self, in_features: int, *, hidden_width: int, out_width: int) -> None:
        super().__init__(nn.Linear(in_features, hidden_width), nn.ReLU(), nn.Linear(hidden_width, out_width))


class PointwiseConv(nn.Conv2d):
    """A 1×1 convolution without bias. On channels-last maps it is a matrix product over all positions, the same to rounding.

    At the few positions of last stages the product takes half to a third of the time of ``nn.Conv2d`` on a CPU.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, outputs, H, W) of maps (B, inputs, H, W)."""
        if not maps.is_contiguous(memory_format=torch.channels_last):
            return super().forward(maps)
        return F.linear(maps.permute(0, 2, 3, 1), self.weight.flatten(1)).permute(0, 3, 1, 2)


class ChannelRegressor(nn.Sequential):
    """Bring a student's map (B, C_s, H_s, W_s) to the shape of the teacher's: 1×1 convolution, BN, ReLU.

    It serves terms that compare maps: FitNet's (Romero et al., ICLR 2015) and SSD-KD's channel relation. If the
    sizes differ, adaptive average pooling comes first (ours); it repeats cells of a map that is too small.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        same = in_shape[1:] == out_shape[1:]
        super().__init__(
            nn.Identity() if same else nn.AdaptiveAvgPool2d(out_shape[1:]),
            nn.Sequential(PointwiseConv(in_shape[0], out_shape[0]), nn.BatchNorm2d(out_shape[0])),
            nn.ReLU(),
        )
