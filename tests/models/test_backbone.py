"""Every preset of conf/backbone under one contract, and what only some networks do."""

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
from skinkd.models.backbone import Backbone, Features, Normalise, choose_stages, mlp_head

CONF = Path(__file__).parents[2] / "conf"
TIMM_PRESETS = sorted(
    file.stem
    for file in (CONF / "backbone").glob("*.yaml")
    if file.stem != "timm" and "timm" in file.read_text().splitlines()[0]
)
# the networks of the same builder that are twice as deep are built by the slow tests
DEEP = {"resnet101": "resnet50", "efficientnet_b4": "efficientnet_b0"}
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


def test_every_preset_is_known() -> None:
    assert set(TIMM_PRESETS) == {
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


@pytest.mark.parametrize("name", PRESETS)
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


# --- stages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strides", "expected"),
    [
        ([2, 4, 8, 16, 32], [1, 2, 3, 4]),
        ([4, 8, 16, 32], [0, 1, 2, 3]),
        ([4, 4, 8, 8, 8, 16], [1, 4, 5]),
        ([16] * 12, [2, 5, 8, 11]),
        ([7] * 2, [0, 1]),
        ([7], [0]),
        ([8] * 5, [0, 1, 2, 4]),
    ],
)
def test_choose_stages(strides: list[int], expected: list[int]) -> None:
    assert choose_stages(strides) == expected


def test_resnet_stages_are_its_four_layers() -> None:
    network = build("resnet18").eval()
    x = network.normalise(images())
    model = network.model
    with torch.no_grad():
        x = model.maxpool(model.act1(model.bn1(model.conv1(x))))
        expected = []
        for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
            x = layer(x)
            expected.append(x)
        for stage, map_ in zip(network.features(images()).stages, expected, strict=True):
            assert torch.equal(stage, map_)


def test_swin_maps_come_channels_first() -> None:
    network = build("timm", name="swin_tiny_patch4_window7_224").eval()
    assert network.stage_shapes == ((96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2))
    with torch.no_grad():
        found = network.features(images())
        torch.testing.assert_close(found.stages[-1].mean(dim=(2, 3)), found.pooled)
        torch.testing.assert_close(found.logits, network(images()))


def test_a_convolution_as_classifier() -> None:
    network = build("timm", name="resnetv2_50x1_bit").eval()
    with torch.no_grad():
        torch.testing.assert_close(network.features(images()).logits, network.model(network.normalise(images())))


@pytest.mark.parametrize("size", [70, 224])
def test_patches_that_leave_out_the_border_are_refused(size: int) -> None:
    if size == 224:
        assert build("vit_tiny", image_size=size).stage_shapes[-1] == (192, 14, 14)
    else:
        with pytest.raises(UserError, match=r"16 pixels would leave out the image's border.*; give a multiple of 16$"):
            build("vit_tiny", image_size=size)


def test_a_size_that_timm_cannot_run_is_refused_with_the_size_of_the_network() -> None:
    with pytest.raises(
        UserError, match=r"image_size=64 does not suit backbone.name=inception_v3.*give 299, the size it"
    ):
        build("timm", name="inception_v3")


# --- head, dropout, normalisation ------------------------------------------------------------------


def test_mlp_head_is_the_published_one() -> None:
    network = build("resnet18", head="mlp")
    kinds = [type(layer).__name__ for layer in network.head]
    assert kinds == ["Linear", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    shapes = {key: tuple(value.shape) for key, value in network.head.named_parameters()}
    assert shapes == {
        "0.weight": (128, 512), "0.bias": (128,), "1.weight": (128, 128),
        "2.weight": (128,), "2.bias": (128,), "4.weight": (7, 128),
    }  # fmt: skip
    assert network.feature_dim == 512
    assert not any(name.startswith("fc.") for name, _ in network.model.named_parameters())
    network.eval()
    with torch.no_grad():
        found = network.features(images())
        torch.testing.assert_close(found.logits, network.head(found.pooled))
        torch.testing.assert_close(found.logits, network(images()))


def test_every_parameter_of_the_mlp_head_gets_a_gradient() -> None:
    network = build("mobilenetv2_100", head="mlp")
    network(images(batch=4)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("widths", [[], [128], [128, 0]])
def test_mlp_head_refuses_widths(widths: list[int]) -> None:
    with pytest.raises(UserError, match="head_widths"):
        mlp_head(8, 3, widths=widths)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "vit_tiny"])
def test_dropout_falls_on_the_classifiers_input_alone(name: str) -> None:
    plain, dropped = build(name), build(name, drop_rate=0.5)
    plain.train(), dropped.train()
    torch.manual_seed(0)
    found = plain.features(images())
    torch.manual_seed(0)
    noisy = dropped.features(images())
    torch.testing.assert_close(noisy.pooled, found.pooled)
    assert not torch.allclose(noisy.logits, found.logits)
    assert not torch.allclose(dropped(images()), dropped(images()))
    dropped.eval()
    with torch.no_grad():
        assert torch.equal(dropped(images()), dropped(images()))


def test_normalisation_follows_the_network_and_is_no_state() -> None:
    assert build("resnet18").normalise.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    vit = build("vit_tiny")
    assert vit.normalise.std.flatten().tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert not any("normalise" in key for key in vit.state_dict())


def test_normalise_moves_with_the_network() -> None:
    normalise = Normalise(mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0)).double()
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert normalise(image).dtype == torch.float64
    assert normalise(image).flatten().tolist() == pytest.approx([-1.0, -0.05, 0.5], abs=1e-15)


def test_integers_other_than_bytes_are_refused() -> None:
    with pytest.raises(TypeError, match="int64"):
        Normalise(mean=(0.5,) * 3, std=(0.5,) * 3)(torch.zeros(1, 3, 4, 4, dtype=torch.int64))


def test_gradients_reach_float_images() -> None:
    network = build("resnet18").eval()
    image = (images().float() / 255).requires_grad_()
    network(image).sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0


def test_float64_and_channels_last() -> None:
    network = build("resnet18").eval()
    with torch.no_grad():
        expected = network(images())
        last = network.to(memory_format=torch.channels_last)
        torch.testing.assert_close(last(images().to(memory_format=torch.channels_last)), expected)
        assert last.double()(images()).dtype == torch.float64


def test_options_reach_timm() -> None:
    network = build("convnext_tiny", options={"drop_path_rate": 0.3})
    rates = [module.drop_prob for module in network.modules() if hasattr(module, "drop_prob")]
    assert max(rates) == pytest.approx(0.3)


# --- small input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("resnet18", [32, 16, 8, 4]),
        ("resnet50", [32, 16, 8, 4]),
        ("densenet121", [32, 16, 8, 4]),
        ("mobilenetv2_100", [16, 8, 4, 2]),
        ("efficientnet_b0", [16, 8, 4, 2]),
    ],
)
def test_small_input_keeps_larger_maps(name: str, sizes: list[int]) -> None:
    network = build(name, image_size=32, small_input=True).eval()
    assert [shape[1] for shape in network.stage_shapes] == sizes
    assert [shape[0] for shape in network.stage_shapes] == [shape[0] for shape in build(name).stage_shapes]
    with torch.no_grad():
        torch.testing.assert_close(network(images(32)), network.features(images(32)).logits)
    stem = network.model.get_submodule(network.model.pretrained_cfg["first_conv"])
    assert (stem.kernel_size, stem.stride, stem.padding) == ((3, 3), (1, 1), (1, 1))


@pytest.mark.parametrize("name", ["vit_tiny", "convnext_tiny"])
def test_small_input_is_refused_for_patches(name: str) -> None:
    with pytest.raises(UserError, match=r"small_input=true does not suit .*ResNet.*small_input=false"):
        build(name, small_input=True)


def test_small_input_allows_smaller_images() -> None:
    assert build("resnet18", image_size=8, small_input=True).stage_shapes[-1] == (512, 1, 1)
    with pytest.raises(UserError, match=r"give at least 8$"):
        build("resnet18", image_size=7, small_input=True)


# --- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "resnet_18"}, r"backbone.name=resnet_18 is no network of timm .*did you mean resnet18"),
        ({"name": "resnet18.imagenet"}, r"no weights 'imagenet' of resnet18; give one of .*tv_in1k"),
        ({"name": "deit_tiny_distilled_patch16_224"}, "several classifiers.*choose another network"),
        ({"head": "conv"}, "backbone.head=conv is not a valid value"),
        ({"drop_rate": 1.0}, "drop_rate=1.0 is out of range"),
        ({"drop_rate": -0.1}, "drop_rate=-0.1 is out of range"),
        ({"num_classes": 0}, "num_classes=0 is out of range"),
        ({"image_size": 0}, "image_size=0 is out of range"),
        ({"options": {"drop_paths": 0.1}}, r"backbone.options=.*drop_paths.*leave out"),
    ],
)
def test_mistakes_get_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        build("resnet18", **changes)
    assert "\n" not in str(caught.value)
