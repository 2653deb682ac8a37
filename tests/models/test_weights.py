"""Weights files as programs write them: what is in them is found, and what is no weights file is called what it is."""

import argparse
import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from skinkd.errors import UserError
from skinkd.models.backbone import Backbone
from skinkd.models.pretrained import without_hub
from skinkd.models.weights import read_state

NAME = "test_resnet"


def build(weights: Path, name: str = NAME, **changes: Any) -> Backbone:
    settings: dict[str, Any] = {
        **{
            "name": name,
            "num_classes": 7,
            "image_size": 64,
            "pretrained": False,
            "small_input": False,
            "head": "linear",
        },
        **{"head_widths": (128, 128), "drop_rate": 0.0, "options": {}},
    }
    torch.manual_seed(0)
    return Backbone(weights=str(weights), **(settings | changes))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(99)
    return timm.create_model(NAME, num_classes=1000)


State = dict[str, Tensor]


def under(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: value for name, value in state.items()}


def zeros(state: State) -> State:
    return {name: torch.zeros_like(value) for name, value in state.items()}


LOADED: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "ema of timm": lambda state: {"state_dict": zeros(state), "state_dict_ema": state, "arch": NAME},
    "timm's script": lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1), "epoch": 3},
    "module": under("module."),
    "_orig_mod": under("_orig_mod."),
    "module._orig_mod": under("module._orig_mod."),
    "module.module": under("module.module."),
    "lightning, model": lambda state: {"state_dict": under("model.")(state), "pytorch-lightning_version": "2.1.0"},
    "lightning, net": lambda state: {"state_dict": under("net.")(state) | {"criterion.weight": torch.ones(3)}},
    "lightning, backbone": lambda state: {"state_dict": under("backbone.")(state)},
    "tutorial": lambda state: {"model_state_dict": state, "optimizer_state_dict": {}},
    "net and accuracy": lambda state: {"net": state, "acc": 91.0, "epoch": 3},
    "with an epoch": lambda state: state | {"epoch": 3},
    "half": lambda state: {name: value.half() for name, value in state.items()},
    "no head": lambda state: {name: value for name, value in state.items() if not name.startswith("fc.")},
}


@pytest.mark.parametrize("kind", LOADED)
def test_the_network_in_a_file_is_found(kind: str, network: nn.Module, tmp_path: Path) -> None:
    state = network.state_dict()
    torch.save(LOADED[kind](state), tmp_path / "w.pth")
    loaded = build(tmp_path / "w.pth").model.state_dict()
    rounded = {name: value.half().float() if kind == "half" else value for name, value in state.items()}
    for name, value in rounded.items():
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked"):
            assert torch.equal(loaded[name], value), name


def test_safetensors_are_known_by_their_content(network: nn.Module, tmp_path: Path) -> None:
    for name in ("model.safetensors", "pytorch_model.bin"):
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, tmp_path / name)
        assert torch.equal(build(tmp_path / name).model.conv1[0].weight, network.conv1[0].weight)


def test_torchvisions_densenet_is_renamed(tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = timm.create_model("densenet121", num_classes=1000).state_dict()
    old = {re.sub(r"(denselayer\d+)\.(norm|conv)(\d)\.", r"\1.\2.\3.", name): value for name, value in state.items()}
    assert old.keys() != state.keys()
    torch.save({f"module.{name}": value for name, value in old.items()}, tmp_path / "densenet121-a639ec97.pth")
    loaded = build(tmp_path / "densenet121-a639ec97.pth", "densenet121").model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items() if "classifier" not in name)


def test_a_run_folder_means_its_best_checkpoint(network: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    saved = {"skinkd": {"classes": []}, "state_dict": under("network.model.")(network.state_dict())}
    torch.save(saved, tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert torch.equal(build(tmp_path / "run").model.conv1[0].weight, network.conv1[0].weight)


def whole(network: nn.Module) -> Any:
    return network


REFUSED: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "whole network": (whole, r"holds a whole pickled network, .*; save torch\.save\(model\.state_dict\(\)"),
    "number of numpy": (
        lambda net: net.state_dict() | {"e": np.int64(3)},
        r"objects besides weights \(numpy.*could run code",
    ),
    "no tensors": (lambda net: {"epoch": 3, "lr": 0.1}, "holds no state dict but epoch, lr"),
    "a list": (lambda net: [1, 2], "holds no state dict but a list"),
    "two networks": (
        lambda net: under("student.")(net.state_dict()) | under("teacher.")(net.state_dict()),
        r"holds several networks \(student\., teacher\.\)",
    ),
    "one channel": (
        lambda net: net.state_dict() | {"conv1.0.weight": torch.zeros(16, 1, 3, 3)},
        "does not fit test_resnet: model.conv1.0.weight is",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_network_is_refused_with_the_remedy(kind: str, network: nn.Module, tmp_path: Path) -> None:
    save, words = REFUSED[kind]
    torch.save(save(network), tmp_path / "w.pth")
    with pytest.raises(UserError, match=words) as told:
        build(tmp_path / "w.pth")
    assert "\n" not in str(told.value) and len(str(told.value)) < 600


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "only a pointer of Git LFS; fetch"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"", "is empty"),
        (b"\x89HDF\r\n", "a file of Keras"),
        (gzip.compress(b"x", mtime=0), "compressed with gzip"),
        (b"noise that is nothing", "cannot be read as a state dict"),
    ],
)
def test_what_is_no_weights_file_is_called_what_it_is(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_state(str(tmp_path / "w.pth"))
    with pytest.raises(UserError, match=r"a folder without checkpoints/best\.ckpt"):
        read_state(str(tmp_path))


def test_names_of_the_hub_are_timms_own() -> None:
    for name in ("hf-hub:timm/resnet18.a1_in1k", "hf_hub:timm/resnet18.a1_in1k", "resnet18.a1_in1k"):
        assert without_hub(name) == "resnet18.a1_in1k"
    with pytest.raises(UserError, match=r"is a repository that is not timm's; download its weights"):
        without_hub("hf-hub:somebody/resnet18")
