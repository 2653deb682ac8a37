"""The contract of every backbone that a preset builds."""

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from skinkd.errors import UserError
from skinkd.models.backbone import Backbone, Features

CONF = Path(__file__).parents[2] / "conf"
TIMM_PRESETS = sorted(
    file.stem
    for file in (CONF / "backbone").glob("*.yaml")
    if file.stem != "timm" and "timm" in file.read_text().splitlines()[0]
)
# the slow tests build the larger networks of a builder
DEEP = {"resnet50": "resnet18", "resnet101": "resnet18", "efficientnet_b4": "efficientnet_b0"}
PRESETS = [pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name for name in TIMM_PRESETS]
# these norm what they pool, so their pooled features are not the mean of the last map
POOLS_A_NORMED_MAP = ("convnext_tiny", "vit_tiny")


@cache
def composed(file: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(f"backbone/{file}", overrides=["backbone.image_size=64"]).backbone


def preset(file: str, **changes: Any) -> dict[str, Any]:
    settings = OmegaConf.to_container(composed(file))
    del settings["_target_"]
    return settings | {"num_classes": 7, "pretrained": False} | changes


def build(file: str, **changes: Any) -> Backbone:
    torch.manual_seed(0)
    return Backbone(**preset(file, **changes))


def images(size: int = 64, batch: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module", params=PRESETS)
def network(request: pytest.FixtureRequest) -> Iterator[Backbone]:
    backbone = build(request.param)
    backbone.preset = request.param
    yield backbone


@pytest.fixture(autouse=True)
def _eval_mode(request: pytest.FixtureRequest) -> None:
    if "network" in request.fixturenames:
        request.getfixturevalue("network").eval().zero_grad(set_to_none=True)


def test_every_name_of_this_file_is_a_presets() -> None:
    assert set(TIMM_PRESETS) >= {
        "resnet18", "resnet50", "resnet101", "mobilenetv2_100", "efficientnet_b0", "efficientnet_b4",
        "convnext_tiny", "vit_tiny", "densenet121", "resnet10t_half",
    }  # fmt: skip


# --- the contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
def test_shapes_are_the_announced_ones(network: Backbone, batch: int) -> None:
    with torch.no_grad():
        found = network.features(images(batch=batch))
    assert isinstance(found, Features)
    assert len(found.stages) == 4
    assert tuple(tuple(stage.shape[1:]) for stage in found.stages) == network.stage_shapes
    assert all(stage.shape[0] == batch and torch.isfinite(stage).all() for stage in found.stages)
    assert found.pooled.shape == (batch, network.feature_dim)
    assert found.logits.shape == (batch, 7)
    sizes = [shape[1] for shape in network.stage_shapes]
    assert sizes == ([4] * 4 if network.preset == "vit_tiny" else [16, 8, 4, 2])


def test_forward_gives_the_logits_of_the_one_pass(network: Backbone) -> None:
    with torch.no_grad():
        torch.testing.assert_close(network(images()), network.features(images()).logits)


def test_logits_are_timms_own(network: Backbone) -> None:
    config = network.model.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = network.model((images().float() / 255 - mean) / std)
        torch.testing.assert_close(network(images()), expected)


def test_pooled_is_the_classifiers_input(network: Backbone) -> None:
    seen: list[Tensor] = []
    classifier = network.model.get_classifier()
    hook = classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        pooled = network.features(images()).pooled
    hook.remove()
    assert len(seen) == 1
    torch.testing.assert_close(pooled, seen[0])
    assert network.feature_dim == classifier.in_features == network.model.head_hidden_size


def test_pooled_is_the_mean_of_the_last_map_where_a_map_is_pooled(network: Backbone) -> None:
    with torch.no_grad():
        found = network.features(images())
    mean = found.stages[-1].mean(dim=(2, 3))
    agrees = mean.shape == found.pooled.shape and torch.allclose(mean, found.pooled, atol=1e-5)
    assert agrees == (network.preset not in POOLS_A_NORMED_MAP)


def test_every_parameter_gets_a_gradient_from_the_logits(network: Backbone) -> None:
    network.train()
    nn.functional.cross_entropy(network(images(batch=4)), torch.tensor([0, 1, 2, 3])).backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not without
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


def test_gradients_of_every_stage_reach_the_first_layer(network: Backbone) -> None:
    first = next(network.model.parameters())
    for stage in network.features(images()).stages:
        (gradient,) = torch.autograd.grad(stage.square().mean(), first, retain_graph=True)
        assert gradient.abs().sum() > 0


def test_stages_survive_the_rest_of_the_pass(network: Backbone) -> None:
    # layers that work in place must not alter a stage after it has been handed out
    with torch.no_grad():
        stages = network.features(images()).stages
        careful = copy.deepcopy(network)
        for module in careful.modules():
            if hasattr(module, "inplace"):
                module.inplace = False
        for stage, expected in zip(stages, careful.features(images()).stages, strict=True):
            torch.testing.assert_close(stage, expected)


def test_bytes_and_floats_agree(network: Backbone) -> None:
    with torch.no_grad():
        torch.testing.assert_close(network(images()), network(images().float() / 255))


def test_bf16_autocast_stays_near_float32(network: Backbone) -> None:
    with torch.no_grad():
        exact = network(images())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = network.features(images())
    assert torch.isfinite(found.logits).all()
    assert (found.logits.float() - exact).abs().max() < 0.05 * (1 + exact.abs().max())


def test_building_draws_the_same_weights_and_moves_nothing(network: Backbone) -> None:
    again = build(network.preset)
    state = network.state_dict()
    assert again.training
    assert all(module.training for module in again.modules())
    for name, value in again.state_dict().items():
        if "running" in name or "num_batches" in name:
            fresh = 1.0 if name.endswith("running_var") else 0.0
            assert (value == fresh).all(), name
        else:
            assert torch.equal(value, state[name]), name


def test_state_dict_round_trip(network: Backbone, tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {f"network.{key}": value for key, value in network.state_dict().items()}},
        tmp_path / "a.ckpt",
    )
    torch.manual_seed(1)
    other = Backbone(**preset(network.preset, weights=str(tmp_path / "a.ckpt"))).eval()
    with torch.no_grad():
        assert torch.equal(other(images()), network(images()))


# a stride of 32, and patches; the others are as resnet18
@pytest.mark.parametrize(
    "name",
    [name if name in ("resnet18", "vit_tiny") else pytest.param(name, marks=pytest.mark.slow) for name in TIMM_PRESETS],
)
def test_sizes_below_the_smallest_are_refused_with_it(name: str) -> None:
    smallest = 16 if name == "vit_tiny" else 32
    with pytest.raises(UserError, match=rf"image_size={smallest - 1} .*; give at least {smallest}$"):
        build(name, image_size=smallest - 1)
    at_smallest = build(name, image_size=smallest).eval()
    assert at_smallest.stage_shapes[-1][1:] == (1, 1)
    assert at_smallest(images(smallest)).shape == (2, 7)


# --- building does not touch the random state ------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny", "densenet121"])
def test_the_dry_pass_leaves_the_generator_alone(name: str) -> None:
    import timm

    build(name)
    after = torch.rand(3)
    torch.manual_seed(0)
    settings = preset(name)
    size = {"img_size": 64} if name == "vit_tiny" else {}
    timm.create_model(settings["name"], num_classes=7, **size)
    assert torch.equal(after, torch.rand(3))
