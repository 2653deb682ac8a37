"""Folding: the same function, and no batch normalisation behind a convolution."""

import copy

import pytest
import torch
from networks import PRESETS, network, noise, randomise
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn

from skinkd.models.fold import fold_batch_norms, record_calls

HEAVY = {"resnet101", "efficientnet_b4", "resnet50"}
NOTHING_TO_FOLD = {"convnext_tiny", "vit_tiny"}


def behind_convolutions(module: nn.Module, image: Tensor) -> int:
    recorder = record_calls(module, image)
    return sum(id(entering) in recorder.convolved for entering, _ in recorder.normed)


@pytest.mark.parametrize(
    "preset",
    [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY | NOTHING_TO_FOLD else []) for name in PRESETS],
)
def test_a_preset_stays_the_same_function(preset: str) -> None:
    module, image = network(preset), torch.from_numpy(noise(2))
    before = copy.deepcopy(module.state_dict())
    folded = fold_batch_norms(module, image)
    with torch.no_grad():
        expected, found = module(image), folded(image)
    assert (expected - found).abs().max() <= 1e-5 * expected.abs().max()
    assert behind_convolutions(folded, image) == 0
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items()), "it has changed"


def test_the_count_sees_what_is_there() -> None:
    image = torch.from_numpy(noise(2))
    assert behind_convolutions(network("mobilenetv2_100"), image) == 52
    assert behind_convolutions(network("resnet18"), image) == 20


class Net(nn.Module):
    """A convolution and a batch normalisation, put together by a function."""

    def __init__(self, convolution: nn.Module, norm: nn.Module, use: str = "plain") -> None:
        super().__init__()
        self.convolution, self.norm, self.use = convolution, norm, use

    def forward(self, image: Tensor) -> Tensor:
        x = self.convolution(image)
        if self.use == "also elsewhere":
            return self.norm(x) + x
        if self.use == "norm twice":
            return self.norm(self.norm(x))
        if self.use == "convolution twice":
            return self.norm(x) + self.convolution(image.flip(3))
        if self.use == "activation between":
            return self.norm(x.relu())
        return self.norm(x)


def check(net: nn.Module, *, folds: bool) -> None:
    net.double().eval()
    randomise(net)
    image = torch.randn(3, 6, 9, 7, dtype=torch.float64)
    folded = fold_batch_norms(net, image)
    with torch.no_grad():
        assert (net(image) - folded(image)).abs().max() <= 1e-12 * net(image).abs().max()
    left = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert left == (0 if folds else 1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("affine", [True, False])
def test_each_kind_of_convolution(bias: bool, groups: int, affine: bool) -> None:
    torch.manual_seed(0)
    check(Net(nn.Conv2d(6, 12, 3, bias=bias, groups=groups), nn.BatchNorm2d(12, affine=affine)), folds=True)


def test_the_activation_of_a_norm_stays() -> None:
    torch.manual_seed(0)
    net = Net(Conv2dSame(6, 12, 3, stride=2, bias=False), BatchNormAct2d(12, act_layer=nn.ReLU6))
    check(net, folds=True)
    with torch.no_grad():
        found = fold_batch_norms(net, torch.randn(3, 6, 9, 7, dtype=torch.float64))(
            torch.randn(2, 6, 9, 7, dtype=torch.float64)
        )
    assert found.min() == 0


@pytest.mark.parametrize("use", ["also elsewhere", "norm twice", "convolution twice", "activation between"])
def test_what_cannot_be_folded_is_left(use: str) -> None:
    torch.manual_seed(0)
    channels = 6 if use == "norm twice" else 12
    check(Net(nn.Conv2d(6, channels, 3), nn.BatchNorm2d(channels), use), folds=False)


def test_a_norm_by_batch_statistics_is_left() -> None:
    torch.manual_seed(0)
    net = Net(nn.Conv2d(6, 12, 3), nn.BatchNorm2d(12, track_running_stats=False)).eval()
    folded = fold_batch_norms(net, torch.randn(3, 6, 9, 7))
    assert isinstance(folded.get_submodule("norm"), nn.BatchNorm2d)
