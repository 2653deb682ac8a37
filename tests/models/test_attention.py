"""Attention against loops over the equations."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skinkd.errors import UserError
from skinkd.models.attention import ChannelSpatialGate, SimAM


def hsig(x: float) -> float:
    return min(max((x + 3) / 6, 0.0), 1.0)


def gate_by_loops(gate: ChannelSpatialGate, f: Tensor) -> Tensor:
    batch, channels, height, width = f.shape
    w1, b1, w2, b2 = gate.reduce.weight, gate.reduce.bias, gate.expand.weight, gate.expand.bias
    kernel, bias = gate.spatial.weight[0, 0], gate.spatial.bias[0]
    half = kernel.shape[0] // 2
    out = torch.zeros_like(f)
    for b in range(batch):
        pooled = [float(f[b, c].sum()) / (height * width) for c in range(channels)]
        hidden = [
            max(0.0, sum(float(w1[j, c]) * pooled[c] for c in range(channels)) + float(b1[j])) for j in range(len(b1))
        ]
        channel = [
            hsig(sum(float(w2[c, j]) * hidden[j] for j in range(len(hidden))) + float(b2[c])) for c in range(channels)
        ]
        for y in range(height):
            for x in range(width):
                total = float(bias)
                for dy in range(-half, half + 1):
                    for dx in range(-half, half + 1):
                        if 0 <= y + dy < height and 0 <= x + dx < width:
                            mean = float(f[b, :, y + dy, x + dx].sum()) / channels
                            total += float(kernel[dy + half, dx + half]) * mean
                for c in range(channels):
                    out[b, c, y, x] = channel[c] * hsig(total)
    return out


@pytest.mark.parametrize(
    ("shape", "reduction", "kernel"), [((2, 8, 3, 4), 4, 3), ((1, 3, 1, 1), 16, 7), ((2, 5, 4, 2), 1, 5)]
)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_gate_is_the_equation(shape: tuple[int, int, int, int], reduction: int, kernel: int, scale: float) -> None:
    torch.manual_seed(0)
    gate = ChannelSpatialGate(shape[1], reduction=reduction, kernel_size=kernel).double()
    gate.requires_grad_(False)
    features = torch.randn(shape, dtype=torch.float64) * scale
    torch.testing.assert_close(gate(features), gate_by_loops(gate, features), rtol=1e-10, atol=1e-12)


def test_gate_reduction_of_sixteen() -> None:
    gate = ChannelSpatialGate(64, reduction=16, kernel_size=7)
    shapes = {name: tuple(p.shape) for name, p in gate.named_parameters()}
    assert shapes == {
        "reduce.weight": (4, 64), "reduce.bias": (4,), "expand.weight": (64, 4), "expand.bias": (64,),
        "spatial.weight": (1, 1, 7, 7), "spatial.bias": (1,),
    }  # fmt: skip


def test_gate_learns() -> None:
    torch.manual_seed(0)
    gate = ChannelSpatialGate(32, reduction=4, kernel_size=7)
    features = torch.randn(4, 32, 5, 5, requires_grad=True)
    gate(features).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in gate.parameters())
    assert features.grad is not None and torch.isfinite(features.grad).all()


def simam_by_loops(f: Tensor, lambda_: float) -> Tensor:
    out = torch.zeros_like(f)
    for b in range(f.shape[0]):
        for c in range(f.shape[1]):
            cells = f[b, c].flatten().tolist()
            mean = sum(cells) / len(cells)
            variance = sum((cell - mean) ** 2 for cell in cells) / len(cells)
            for i, cell in enumerate(cells):
                energy = 4 * (variance + lambda_) / ((cell - mean) ** 2 + 2 * variance + 2 * lambda_)
                out[b, c].view(-1)[i] = 1 / (1 + math.exp(-1 / energy))
    return out


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 1, 1), (3, 1, 1, 7)])
@pytest.mark.parametrize("lambda_", [1e-4, 0.5])
def test_simam_is_the_equation(shape: tuple[int, ...], lambda_: float) -> None:
    torch.manual_seed(0)
    features = torch.randn(shape, dtype=torch.float64)
    expected = simam_by_loops(features, lambda_)
    torch.testing.assert_close(SimAM(lambda_=lambda_)(features), expected, rtol=1e-10, atol=1e-12)


def test_simam_has_no_parameters_and_is_flat_on_a_flat_map() -> None:
    attention = SimAM(lambda_=1e-4)
    assert not list(attention.parameters()) and not attention.state_dict()
    features = torch.full((2, 3, 4, 4), 5.0, requires_grad=True)
    found = attention(features)
    torch.testing.assert_close(found, torch.full_like(found, 1 / (1 + math.exp(-0.5))))
    found.sum().backward()
    assert features.grad is not None and torch.isfinite(features.grad).all()


BOTH = [ChannelSpatialGate(8, reduction=4, kernel_size=7), SimAM(lambda_=1e-4)]


@pytest.mark.parametrize("attention", BOTH, ids=["gate", "simam"])
@settings(max_examples=30)
@given(batch=st.integers(1, 3), height=st.integers(1, 9), width=st.integers(1, 9), scale=st.floats(0, 1e4))
def test_attention_has_the_features_shape_and_lies_in_0_1(
    attention: nn.Module, batch: int, height: int, width: int, scale: float
) -> None:
    found = attention(torch.randn(batch, 8, height, width) * scale)
    assert found.shape == (batch, 8, height, width)
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("attention", BOTH, ids=["gate", "simam"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_is_float32_under_autocast(attention: nn.Module, dtype: torch.dtype) -> None:
    features = (torch.randn(2, 8, 5, 5) * 300).to(dtype)  # squares overflow float16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention(features)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, attention(features.float()))


@pytest.mark.parametrize("kernel", [0, 2, -3])
def test_gate_refuses_even_kernels(kernel: int) -> None:
    with pytest.raises(UserError, match=f"kernel_size={kernel}"):
        ChannelSpatialGate(8, reduction=4, kernel_size=kernel)


def test_ranges() -> None:
    with pytest.raises(UserError, match="reduction"):
        ChannelSpatialGate(8, reduction=0, kernel_size=7)
    with pytest.raises(UserError, match="above 0"):
        SimAM(lambda_=0.0)
