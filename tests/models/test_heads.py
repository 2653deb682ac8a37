"""Training-only heads: every pair of shapes that stages can have."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skinkd.models.heads import Aligner, AuxiliaryHead, ChannelRegressor, PointwiseConv, Projector

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(1, 20))


@settings(max_examples=60)
@given(inputs=SHAPES, outputs=SHAPES, reduction=st.integers(1, 64), batch=st.integers(1, 3))
def test_aligner_gives_the_asked_shape(
    inputs: tuple[int, int, int], outputs: tuple[int, int, int], reduction: int, batch: int
) -> None:
    align = Aligner(inputs, outputs, reduction=reduction).eval()
    assert align(torch.randn(batch, *inputs)).shape == (batch, *outputs)


def strides(align: nn.Module) -> list[int]:
    convs = (module for module in align.modules() if isinstance(module, nn.Conv2d))
    return [conv.stride[0] for conv in convs if conv.kernel_size == (3, 3)]


@pytest.mark.parametrize(
    ("size", "expected", "pools"),
    [(56, [2, 2, 2], False), (28, [2, 2], False), (14, [2], False), (7, [1], False), (13, [2], False),
     (15, [2], True), (12, [1], True), (25, [2, 2], False), (5, [1], True)],
)  # fmt: skip
def test_aligner_halves_as_often_as_the_size_allows(size: int, expected: list[int], pools: bool) -> None:
    align = Aligner((64, size, size), (512, 7, 7), reduction=4)
    assert strides(align) == expected
    assert any(isinstance(module, nn.AdaptiveAvgPool2d) for module in align.modules()) == pools


def test_aligner_is_a_bottleneck() -> None:
    align = Aligner((64, 16, 16), (512, 2, 2), reduction=4)
    widths = [(m.in_channels, m.out_channels) for m in align.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [(64, 128), (128, 128), (128, 128), (128, 128), (128, 512)]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in align.modules()) == 5
    # no ReLU at the end: the target it is compared with may be negative
    assert (align(torch.randn(8, 64, 16, 16)) < 0).any()


def test_aligner_with_fewer_channels_than_the_reduction() -> None:
    assert Aligner((3, 4, 4), (2, 4, 4), reduction=16)(torch.randn(2, 3, 4, 4)).shape == (2, 2, 4, 4)


def test_auxiliary_head_classifies_the_mean_of_its_aligned_map() -> None:
    head = AuxiliaryHead((8, 16, 16), (32, 4, 4), 7, reduction=4)
    aligned, logits = head(torch.randn(3, 8, 16, 16))
    assert aligned.shape == (3, 32, 4, 4) and logits.shape == (3, 7)
    weight, bias = head.classifier.weight, head.classifier.bias
    for b, k in itertools.product(range(3), range(7)):
        mean = torch.stack([aligned[b, c].flatten().sum() / 16 for c in range(32)])
        torch.testing.assert_close(logits[b, k], (weight[k] * mean).sum() + bias[k])


def test_every_parameter_of_the_heads_gets_a_gradient() -> None:
    head = AuxiliaryHead((8, 4, 4), (32, 4, 4), 7, reduction=4)  # the equal stages of a ViT
    stage = torch.randn(3, 8, 4, 4, requires_grad=True)
    head(stage)[1].square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())
    assert stage.grad is not None and stage.grad.abs().sum() > 0


def test_heads_under_bf16_autocast() -> None:
    head = AuxiliaryHead((8, 8, 8), (16, 2, 2), 7, reduction=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        aligned, logits = head(torch.randn(4, 8, 8, 8))
    assert torch.isfinite(aligned).all() and torch.isfinite(logits).all()


def test_projector_by_hand() -> None:
    projector = Projector(5, hidden_width=4, out_width=3).double()
    x = torch.randn(2, 5, dtype=torch.float64)
    first, last = projector[0], projector[2]
    expected = torch.zeros(2, 3, dtype=torch.float64)
    projector.requires_grad_(False)
    for b in range(2):
        hidden = [max(0.0, float((first.weight[h] * x[b]).sum() + first.bias[h])) for h in range(4)]
        for o in range(3):
            expected[b, o] = sum(float(last.weight[o, h]) * hidden[h] for h in range(4)) + float(last.bias[o])
    torch.testing.assert_close(projector(x), expected)


@settings(max_examples=40)
@given(inputs=SHAPES, outputs=SHAPES)
def test_regressor_gives_the_teachers_shape(inputs: tuple[int, int, int], outputs: tuple[int, int, int]) -> None:
    found = ChannelRegressor(inputs, outputs).eval()(torch.randn(2, *inputs))
    assert found.shape == (2, *outputs)
    assert (found >= 0).all()


def test_regressor_is_one_convolution_where_the_sizes_agree() -> None:
    regress = ChannelRegressor((5, 7, 7), (9, 7, 7)).eval().double()
    x = torch.randn(2, 5, 7, 7, dtype=torch.float64)
    conv, norm = (m for m in regress.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d))
    mixed = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], x)
    torch.testing.assert_close(regress(x), (mixed / (1 + norm.eps) ** 0.5).clamp(min=0))


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, outputs=st.integers(1, 20), batch=st.integers(1, 3), channels_last=st.booleans())
def test_a_pointwise_convolution_is_a_convolution(
    shape: tuple[int, int, int], outputs: int, batch: int, channels_last: bool
) -> None:
    """Values and both gradients, in either layout, and from a map that is no block of memory."""
    pointwise = PointwiseConv(shape[0], outputs).double()
    maps = torch.randn(batch, shape[0], shape[1], 2 * shape[2], dtype=torch.float64)[..., ::2]
    if channels_last:
        maps = maps.to(memory_format=torch.channels_last)
    upstream = torch.randn(batch, outputs, *shape[1:], dtype=torch.float64)
    found = []
    for forward in (pointwise, lambda x: nn.functional.conv2d(x, pointwise.weight)):
        image = maps.detach().requires_grad_()
        out = forward(image)
        found.append([out, *torch.autograd.grad(out, [image, pointwise.weight], upstream)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_pointwise_convolution_has_the_weights_of_a_convolution() -> None:
    """The same names, shapes and initial values, so that checkpoints of earlier versions fit."""
    built = []
    for make in (lambda: PointwiseConv(6, 9), lambda: nn.Conv2d(6, 9, 1, bias=False)):
        torch.manual_seed(0)
        built.append(make().state_dict())
    assert list(built[0]) == list(built[1]) == ["weight"]
    assert torch.equal(built[0]["weight"], built[1]["weight"])
