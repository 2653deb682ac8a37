"""Which map is read, and that reading it changes nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor

from skinkd.explanation.outputs import choose_layer, choose_stage, outputs_of, tapped
from skinkd.models.backbone import Backbone
from skinkd.models.hybrid import HybridStudent, HybridTeacher, plain_backbone

PLAIN: dict[str, Any] = {"num_classes": 3, "pretrained": False, "weights": None, "options": {}}
SMALL_VIT = {"patch_size": 16, "embed_dim": 24, "depth": 3, "num_heads": 2}
SMALL_MIXER = {"dim": 16, "depth": 2, "kernel_size": 3, "patch_size": 8}
FUSION = {"pretrained": False, "weights": None, "fusion_width": 8, "drop_rate": 0.0}


def images(size: int) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ([(56, 56), (28, 28), (14, 14), (7, 7)], 3),
        ([(16, 16), (8, 8), (4, 4), (2, 2)], 1),
        ([(6, 6), (5, 5), (3, 3), (2, 2)], 2),  # none is fine enough: the finer of the last two
        ([(4, 4), (4, 4)], 1),
        ([(4, 9), (3, 3)], 0),
        ([(2, 2)], 0),
    ],
)
def test_the_stage_is_the_deepest_of_enough_cells(sizes: list[tuple[int, int]], chosen: int) -> None:
    assert choose_stage(sizes, cells=7) == chosen


@pytest.mark.parametrize(
    ("name", "size", "layer", "cells"),
    [
        ("test_resnet.r160_in1k", 64, "layer2", (8, 8)),
        ("mobilenetv2_050", 64, "blocks.2", (8, 8)),
        ("densenet121", 64, "features.denseblock2", (8, 8)),
        ("convnext_atto", 96, "stages.0", None),
        ("test_vit", 64, "blocks.5.norm1", (4, 4)),
        ("swin_tiny_patch4_window7_224", 64, "layers.1.blocks.1.norm1", (8, 8)),
    ],
)
def test_a_tap_sees_the_stage_and_changes_no_logit(
    name: str, size: int, layer: str, cells: tuple[int, int] | None
) -> None:
    """The map's gradient must reach every cell: the whole point of hooking a module in place of features()."""
    torch.manual_seed(0)
    network = plain_backbone(name, image_size=size, **PLAIN).eval()
    found = choose_layer(network, cells=7 if cells else 20)
    assert found is not None and found.name == layer
    if cells:
        assert found.cells == cells
    seen: list[Tensor] = []
    plain = network(images(size))
    with tapped(found) as tap:
        tap.register_forward_hook(lambda _module, _given, value: seen.append(value))
        logits = network(images(size))
    assert torch.equal(logits, plain)
    (map,) = seen
    assert tuple(map.shape[2:]) == found.cells
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), map)
    assert (gradient.abs().sum(dim=1) > 0).all()
    assert torch.equal(network(images(size)), plain) and len(seen) == 1  # the tap is gone


def test_the_map_of_a_convolution_is_the_stage_of_features() -> None:
    network = plain_backbone("test_resnet.r160_in1k", image_size=64, **PLAIN).eval()
    layer = choose_layer(network, cells=7)
    seen: list[Tensor] = []
    assert layer is not None
    with tapped(layer) as tap:
        tap.register_forward_hook(lambda _module, _given, value: seen.append(value))
        network(images(64))
    assert torch.equal(seen[0], network.features(images(64)).stages[1])


def test_the_tokens_of_a_vit_lie_where_its_patches_lie() -> None:
    """A change of one patch of the image changes the first block's input in that cell, and no prefix token is a cell."""
    network = plain_backbone("test_vit", image_size=64, **PLAIN).eval()
    layer = choose_layer(network, cells=7)
    assert layer is not None and layer.prefix == 1
    first = layer._replace(module=network.model.blocks[0].norm1)
    seen: list[Tensor] = []
    changed = images(64)
    changed[:, :, 16:32, 48:64] = 0  # row 1, column 3 of 4×4 patches
    with tapped(first) as tap:
        tap.register_forward_hook(lambda _module, _given, value: seen.append(value))
        network(images(64)), network(changed)
    moved = (seen[0] - seen[1]).abs().sum(dim=1) > 1e-6
    expected = torch.zeros(2, 4, 4, dtype=torch.bool)
    expected[:, 1, 3] = True
    assert torch.equal(moved, expected)


def hybrids() -> list[Any]:
    teacher = HybridTeacher(
        name="t",
        num_classes=3,
        image_size=64,
        attention_branch="small_vit",
        conv_branch="convmixer",
        small_vit=SMALL_VIT,
        convmixer=SMALL_MIXER,
        **FUSION,
    )
    students = [
        HybridStudent(
            name="s",
            num_classes=3,
            image_size=64,
            cnn_widths=[4, 8],
            conv_branch="test_resnet.r160_in1k",
            fusion=fusion,
            **FUSION,
        )
        for fusion in ("logits", "features")
    ]
    return [teacher.eval(), *(student.eval() for student in students)]


def test_a_hybrid_has_its_exits_as_outputs_and_its_final_classifier_without_a_layer() -> None:
    torch.manual_seed(0)
    for network in hybrids():
        final, *exits = outputs_of(network, image_size=64, cells=7)
        assert (final.name, final.layer) == ("final", None)
        assert torch.equal(final.logits(images(64)), network(images(64)))
        assert tuple(output.name for output in exits) == network.exit_names
        expected = network.features(images(64)).exits
        for output in exits:
            assert torch.equal(output.logits(images(64)), expected[output.name])
            assert output.layer is not None
            seen: list[Tensor] = []
            with tapped(output.layer) as tap:
                tap.register_forward_hook(lambda _module, _given, value, seen=seen: seen.append(value))
                logits = output.logits(images(64))
            assert tuple(seen[-1].shape[2:]) == output.layer.cells, output
            (gradient,) = torch.autograd.grad(logits[:, 0].sum(), seen[-1])
            assert gradient.abs().sum() > 0, output


def test_a_network_has_one_output() -> None:
    network: Backbone = plain_backbone("test_resnet.r160_in1k", image_size=64, **PLAIN).eval()
    (only,) = outputs_of(network, image_size=64, cells=7)
    assert only.name == "final" and only.logits is network
