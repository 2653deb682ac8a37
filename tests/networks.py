"""Networks of the presets with random weights and random statistics, so that no term of a formula is 0 or 1."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import skinkd.conf
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from skinkd.build.construct import build

K = 5
PRESETS = sorted(path.stem for path in (Path(skinkd.conf.__file__).parent / "backbone").glob("*.yaml"))
PRESETS.remove("timm")  # needs a name
SMALL: dict[str, tuple[str, ...]] = {
    "plain": ("timm", "backbone.name=test_resnet"),
    "depthwise": ("timm", "backbone.name=test_efficientnet"),
    "convnext": ("timm", "backbone.name=test_convnext"),
    "attention": ("timm", "backbone.name=test_vit"),
    "windows": (
        "timm",
        "backbone.name=swin_tiny_patch4_window7_224",
        "+backbone.options={depths: [2, 1], embed_dim: 24, num_heads: [1, 2]}",
    ),
    "hybrid": ("mskd_teacher", "backbone.small_vit.embed_dim=64", "backbone.convmixer.dim=32"),
}
"""A small network of each kind: the preset and overrides."""


@cache
def network(preset: str, *overrides: str, size: int = 64) -> Any:
    """A preset's network in eval mode; for reading only."""
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        words = [f"backbone={preset}", "backbone.pretrained=false", f"data.image_size={size}", *overrides]
        config: Any = OmegaConf.to_container(compose("train", overrides=words).backbone, resolve=True)
    torch.manual_seed(0)
    made = build(config, place="backbone", num_classes=K)
    randomise(made)
    settle(made, size=size)
    return made.eval()


@torch.no_grad()
def settle(network: nn.Module, *, size: int) -> None:
    """Give batch normalisations the statistics of noise. In a deep network the images would else be lost on the way."""
    norms = [norm for norm in network.modules() if isinstance(norm, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.9
    network.train()(torch.from_numpy(noise(8, size, seed=1)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def randomise(network: nn.Module) -> None:
    """Draw the statistics and weights of all batch normalisations."""
    for norm in network.modules():
        if isinstance(norm, _BatchNorm):
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.2)
                nn.init.uniform_(norm.bias, -0.5, 0.5)


def noise(count: int, size: int = 64, *, seed: int = 0) -> np.ndarray:
    """Images, uint8 (N, 3, size, size)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
