"""Stages, heads, normalisation and small input of a backbone, and what is refused."""

from functools import cache
from typing import Any

import pytest
import torch
from test_backbone import build, images

from skinkd.errors import UserError
from skinkd.models.backbone import Backbone, Normalise, choose_stages, mlp_head


@cache
def resnet18() -> Backbone:
    """A network in eval mode; for reading only."""
    return build("resnet18").eval()


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
    network = resnet18()
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
    small = {"depths": [1, 1, 1, 1], "embed_dim": 12, "num_heads": [1, 1, 1, 1]}
    network = build("timm", name="swin_tiny_patch4_window7_224", options=small).eval()
    assert network.stage_shapes == ((12, 16, 16), (24, 8, 8), (48, 4, 4), (96, 2, 2))
    with torch.no_grad():
        found = network.features(images())
        torch.testing.assert_close(found.stages[-1].mean(dim=(2, 3)), found.pooled)
        torch.testing.assert_close(found.logits, network(images()))


def test_a_convolution_as_classifier() -> None:
    network = build("timm", name="resnetv2_18").eval()
    assert isinstance(network.model.get_classifier(), torch.nn.Conv2d)
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


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_dropout_falls_on_the_classifiers_input_alone(name: str) -> None:
    plain, dropped = build("timm", name=name), build("timm", name=name, drop_rate=0.5)
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
    assert resnet18().normalise.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
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
    network = resnet18()
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
    network = build("timm", name="test_convnext", options={"drop_path_rate": 0.3})
    rates = [module.drop_prob for module in network.modules() if hasattr(module, "drop_prob")]
    assert max(rates) == pytest.approx(0.3)


# --- small input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("resnet18", [32, 16, 8, 4]),
        pytest.param("resnet50", [32, 16, 8, 4], marks=pytest.mark.slow),  # as resnet18
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
