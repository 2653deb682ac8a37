"""Attention A of a feature map, which corrects it as F ⊙ A; A has the shape of F, (B, C, H, W)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skinkd.errors import UserError, check_range


class ChannelSpatialGate(nn.Module):
    """A = channel gate ⊗ spatial gate, each in [0, 1]; learned.

    channel = hsig(W₂ relu(W₁ GAP F)), (B, C, 1, 1); spatial = hsig(conv(mean_c F)), (B, 1, H, W);
    hsig(x) = clip((x + 3) / 6, 0, 1). W₁, W₂ and the convolution have biases. Our reading of the
    attention in SW-SKD (Zheng et al., Scientific Reports 15:25238, 2025), whose code is not public.

    Computed in float32 also under autocast.

    Args:
        channels: C.
        reduction: C over the width between W₁ and W₂.
        kernel_size: of the spatial convolution, odd.

    Raises:
        UserError: an even or non-positive kernel size, a reduction below 1.
    """

    def __init__(self, channels: int, *, reduction: int, kernel_size: int) -> None:
        super().__init__()
        check_range("reduction of the attention gate", reduction, low=1)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(f"kernel_size={kernel_size} of the attention gate must be odd and positive, e.g. 7")
        width = max(channels // reduction, 1)
        self.reduce = nn.Linear(channels, width)
        self.expand = nn.Linear(width, channels)
        self.spatial = nn.Conv2d(1, 1, kernel_size, padding=kernel_size // 2)

    def forward(self, features: Tensor) -> Tensor:
        """A (B, C, H, W) of features (B, C, H, W)."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.reduce.weight.dtype)
            channel = F.hardsigmoid(self.expand(F.relu(self.reduce(features.mean(dim=(2, 3))))))
            spatial = F.hardsigmoid(self.spatial(features.mean(dim=1, keepdim=True)))
            return channel[:, :, None, None] * spatial


class SimAM(nn.Module):
    """Parameter-free attention A = sigmoid(1 / e), the more a cell stands out from its channel the larger.

    1/e = (x − μ)² / (4 (σ² + λ)) + ½ with mean μ and variance σ² (over M = H·W) of each channel: the inverse
    of the minimal energy of SimAM (Yang et al., ICML 2021). Their code divides the variance by M − 1 instead,
    which a 1×1 map does not allow.

    Computed in float32 (float64 for float64 features) also under autocast.

    Args:
        lambda_: λ, above 0.

    Raises:
        UserError: λ not above 0.
    """

    def __init__(self, *, lambda_: float) -> None:
        super().__init__()
        if lambda_ <= 0:
            raise UserError(f"lambda={lambda_} of the parameter-free attention must be above 0, e.g. 1e-4")
        self.lambda_ = lambda_

    def forward(self, features: Tensor) -> Tensor:
        """A (B, C, H, W) of features (B, C, H, W)."""
        features = features if features.dtype == torch.float64 else features.float()
        variance, mean = torch.var_mean(features, dim=(2, 3), correction=0, keepdim=True)
        return torch.sigmoid((features - mean).square() / (4 * (variance + self.lambda_)) + 0.5)
