"""A frozen teacher in bfloat16: the same function as in float32, with its batch normalisations folded."""

import copy
from typing import Any

import pytest
import torch
from networks import PRESETS, SMALL, network, noise
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from skinkd.models.fold import fold_batch_norms, record_calls
from skinkd.models.teacher import Teacher

HEAVY = {"resnet101", "efficientnet_b4", "resnet50"}
NOTHING_TO_FOLD = {"convnext_tiny", "vit_tiny"}
KINDS = sorted(SMALL)


def outputs(features: Any) -> dict[str, Tensor]:
    """Each tensor of a network's features, by its name."""
    stages = {f"stage {k}": stage for k, stage in enumerate(features.stages)}
    return {**stages, "pooled": features.pooled, "logits": features.logits, **getattr(features, "exits", {})}


def distance(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """The mean difference of the logits."""
    return float((found["logits"] - exact["logits"]).abs().mean())


def teacher_of(kind: str) -> tuple[Teacher, Tensor]:
    preset, *overrides = SMALL[kind]
    return Teacher(copy.deepcopy(network(preset, *overrides)), image_size=64, bf16=False), torch.from_numpy(noise(8))


@pytest.mark.parametrize(
    "preset",
    [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY | NOTHING_TO_FOLD else []) for name in PRESETS],
)
def test_every_feature_of_a_preset_stays_when_its_norms_are_folded(preset: str) -> None:
    module, image = network(preset), torch.from_numpy(noise(2))
    folded = fold_batch_norms(module, image, run="features")
    with torch.no_grad():
        expected, found = outputs(module.features(image)), outputs(folded.features(image))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert (value - found[name]).abs().max() <= 1e-5 * value.abs().max(), name


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_about_as_near_to_float32_as_autocast_alone(kind: str) -> None:
    teacher, image = teacher_of(kind)
    exact = outputs(teacher(image))
    teacher.bf16 = True  # autocast over the weights in float32
    autocast = outputs(teacher(image))
    teacher.use_bf16()
    found = outputs(teacher(image))
    assert 0 < distance(found, exact) <= 2 * distance(autocast, exact)
    assert found["logits"].dtype == found["pooled"].dtype == torch.float32
    recorder = record_calls(teacher, image)
    assert not any(id(entering) in recorder.convolved for entering, _ in recorder.normed)


@pytest.mark.parametrize("kind", ["convnext", "attention", "windows"])
def test_without_batch_normalisation_it_is_autocast_to_the_bit(kind: str) -> None:
    teacher, image = teacher_of(kind)
    assert not any(isinstance(module, _BatchNorm) for module in teacher.modules())
    teacher.bf16 = True
    expected = outputs(teacher(image))
    teacher.use_bf16()
    found = outputs(teacher(image))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_it_leaves_the_given_network_as_it_was() -> None:
    given = copy.deepcopy(network("resnet18"))
    before = copy.deepcopy(given.state_dict())
    teacher = Teacher(given, image_size=64, bf16=False)
    teacher.use_bf16()
    assert teacher.network is not given
    assert given.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_has_the_same_teacher_to_the_bit(kind: str) -> None:
    """A run folds its teacher again at each start."""
    (first, image), (again, _) = teacher_of(kind), teacher_of(kind)
    for teacher in (first, again):
        teacher.use_bf16()
    one, other = outputs(first(image)), outputs(again(image))
    assert all(torch.equal(one[name], value) for name, value in other.items())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


class Tapped(nn.Module):
    """A network whose stage is a convolution's output, which a batch normalisation reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The stage and the normalised stage."""
        stage = self.convolution(image)
        return stage, self.norm(stage)

    def forward(self, image: Tensor) -> Tensor:
        return self.features(image)[1]


def test_a_stage_in_front_of_a_norm_stays() -> None:
    torch.manual_seed(0)
    module, image = Tapped(), torch.randn(2, 3, 8, 8)
    module.train()(image)
    module.eval()
    folded = fold_batch_norms(module, image, run="features")
    for expected, found in zip(module.features(image), folded.features(image), strict=True):
        torch.testing.assert_close(found, expected)
