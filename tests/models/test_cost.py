"""Multiply-adds against sums over layers counted by hand, and the curve of early exits image by image."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from skinkd.models.backbone import Backbone
from skinkd.models.cost import exit_macs, network_macs
from skinkd.models.hybrid import HybridStudent, HybridTeacher
from skinkd.scoring.early_exit import early_exit_curve

SIZE = 32
K = 3


def build(backbone: str, *overrides: str) -> Any:
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        given = [f"backbone={backbone}", "backbone.pretrained=false", f"data.image_size={SIZE}", *overrides]
        config = compose("train", overrides=given)
    torch.manual_seed(0)
    return instantiate(OmegaConf.to_container(config, resolve=True)["backbone"], num_classes=K, _convert_="all").eval()  # type: ignore[index,call-overload]


def by_layer(network: nn.Module) -> dict[str, int]:
    """Multiply-adds of one image in each convolution and linear layer, from its shapes as it runs."""
    found: dict[str, int] = {}
    hooks = []

    def count(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                kernel = module.kernel_size[0] * module.kernel_size[1] * module.in_channels // module.groups
            else:
                kernel = module.in_features  # type: ignore[assignment]
            found[name] = found.get(name, 0) + kernel * output.numel()

        return hook

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            hooks.append(module.register_forward_hook(count(name)))
    with torch.no_grad():
        network(torch.zeros(1, 3, SIZE, SIZE))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", "efficientnet_b0"])
def test_a_backbone_costs_the_sum_of_its_layers(name: str) -> None:
    network: Backbone = build(name)
    assert network_macs(network, SIZE) == sum(by_layer(network).values())
    network.train()
    network_macs(network, SIZE)
    assert network.training  # left as it was
    statistics = [buffer.clone() for buffer in network.buffers()]
    network_macs(network, SIZE)
    assert all(torch.equal(one, other) for one, other in zip(statistics, network.buffers(), strict=True))


def test_resnet18_at_224_pixels_is_the_published_figure() -> None:
    """1.8 × 10⁹ multiply-adds (He et al., CVPR 2016, table 1)."""
    assert network_macs(build("resnet18"), 224) == pytest.approx(1.8e9, rel=0.02)


@pytest.mark.parametrize("fusion", ["logits", "features"])
def test_the_students_exits_cost_what_runs_before_them(fusion: str) -> None:
    network: HybridStudent = build("mskd_student", f"backbone.fusion={fusion}")
    layers = by_layer(network)
    costs = exit_macs(network, SIZE)
    first = sum(macs for name, macs in layers.items() if name.startswith(("cnn", "exit_1")))
    final = sum(macs for name, macs in layers.items() if name.startswith("classifier"))
    assert costs["exit_1"] == first
    assert costs[""] == network_macs(network, SIZE) == sum(layers.values())
    assert costs["exit_2"] == sum(layers.values()) - final


def test_the_teachers_exits_cost_what_runs_before_them() -> None:
    network: HybridTeacher = build("mskd_teacher")
    costs = exit_macs(network, SIZE)
    assert list(costs) == [*network.exit_names, ""]
    assert all(before < after for before, after in itertools.pairwise(costs.values()))
    # the whole: every layer, and attention's two products of (tokens, tokens) with each head's width
    layers = sum(by_layer(network).values())  # exits are no part of the plain pass
    attention = network.attention.model
    tokens = attention.patch_embed.num_patches
    products = len(attention.blocks) * 2 * tokens * tokens * attention.embed_dim
    exits = sum(K * head[-1].in_features for head in (*network.attention_exits, *network.conv_exits))
    own = sum(branch.model.get_classifier().in_features * K for branch in (network.attention, network.conv))
    assert network_macs(network, SIZE) == layers + products
    assert costs[""] == layers + products + exits + own


@pytest.mark.parametrize("threshold", [0.0, 0.45, 0.5, 1.1])
def test_the_curve_stops_each_image_at_its_first_sure_exit(threshold: float) -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.full(K, 8.0), size=(3, 24))
    names, label = ["a", "b", "c"], np.arange(24) % K
    tables = {}
    for name, p in zip(("exit_1", "exit_2", "final"), probabilities, strict=True):
        tables[name] = pd.DataFrame(
            {"image_id": [f"{i:02d}" for i in range(24)], "group": [str(i // 2) for i in range(24)],
             "label": [names[k] for k in label], "prediction": [names[k] for k in p.argmax(axis=1)]}
        ).assign(**{f"p_{name}": p[:, k] for k, name in enumerate(names)})  # fmt: skip

    # image by image
    output = np.array([next((k for k in (0, 1) if probabilities[k, i].max() >= threshold), 2) for i in range(24)])
    right = np.mean([probabilities[k, i].argmax() == label[i] for i, k in enumerate(output)])

    macs = {"exit_1": 1, "exit_2": 10, "final": 100}
    curve = early_exit_curve(tables, names, macs=macs, thresholds=[threshold], calibration_bins=15).iloc[0]
    assert curve["accuracy"] == pytest.approx(right)
    assert curve["macs"] == pytest.approx(np.array([1, 10, 100])[output].mean())
    shares = [(output == k).mean() for k in range(3)]
    assert curve[["share_exit_1", "share_exit_2", "share_final"]].tolist() == pytest.approx(shares)
    assert len(set(output)) == (1 if threshold in (0.0, 1.1) else 3)
