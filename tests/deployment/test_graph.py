"""The exported graphs against the network in PyTorch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_once  # noqa: F401
import onnxruntime
import pytest
import torch
from networks import PRESETS, SMALL, K, network, noise

from skinkd.deployment.before_after import parity
from skinkd.deployment.engines import onnx_engine, score, torch_engine
from skinkd.deployment.graph import trace, write_metadata, write_onnx

BATCHES = (1, 3, 32)


def export(module: Any, path: Path, *, exits: tuple[str, ...] = (), input_type: str = "uint8") -> Any:
    program = trace(module, image_size=64, input_type=input_type, exits=exits)
    write_onnx(program, path, exits=exits, metadata={"classes": json.dumps(["ä", "b"])})
    return program


def check(module: Any, path: Path) -> None:
    """The limits of an export, and every batch by itself as in any other batch."""
    engines = {"torch": torch_engine(module), "onnx": onnx_engine(path, threads=1)}
    images = noise(sum(BATCHES))
    parts = np.split(images, np.cumsum(BATCHES)[:-1])
    found = score(engines, parts)
    far = parity(found["torch"], found["onnx"])
    assert far["probability"] <= 1e-5 and far["logit"] <= 1e-5 and far["predictions"] == 0
    assert found["onnx"][0].shape == (len(images), K)
    assert np.ptp(found["torch"][0], axis=0).max() > 1e-3, "the images tell the network something"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain network with a float input, as ONNX."""
    path = tmp_path_factory.mktemp("plain") / "model.onnx"
    export(network(*SMALL["plain"]), path, input_type="float")
    return path


# test_predict.py has a transformer and a hybrid as ONNX too; the hybrid below has depthwise layers, as a convnext
KINDS = [
    pytest.param(kind, marks=pytest.mark.slow if kind in ("attention", "convnext", "depthwise", "hybrid") else ())
    for kind in SMALL
]


@pytest.mark.parametrize("kind", KINDS[1:])  # the plain one is below
def test_a_small_network_of_each_kind(kind: str, tmp_path: Path) -> None:
    module = network(*SMALL[kind])
    export(module, tmp_path / "model.onnx")
    check(module, tmp_path / "model.onnx")


def test_a_float_input(plain: Path) -> None:
    (given,) = onnxruntime.InferenceSession(plain).get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("image", "tensor(float)", [3, 64, 64])
    check(network(*SMALL["plain"]), plain)  # the engine divides by 255


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "overrides"),
    [(name, ()) for name in PRESETS] + [("timm", ("backbone.name=swin_tiny_patch4_window7_224",))],
)
def test_every_preset(preset: str, overrides: tuple[str, ...], tmp_path: Path) -> None:
    module = network(preset, *overrides)
    export(module, tmp_path / "model.onnx")
    check(module, tmp_path / "model.onnx")
    network.cache_clear()


def test_exits_are_outputs_in_both_formats(tmp_path: Path) -> None:
    module = network("mskd_student", "backbone.conv_branch=test_efficientnet")
    program = export(module, tmp_path / "model.onnx", exits=module.exit_names)
    check(module, tmp_path / "model.onnx")
    torch.export.save(program, tmp_path / "model.pt2")
    images = noise(3)
    with torch.no_grad():
        features = module.features(torch.from_numpy(images))
        again = torch.export.load(tmp_path / "model.pt2").module()(torch.from_numpy(images))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    names = ["logits", "probabilities", "exit_1", "exit_2"]
    assert [output.name for output in session.get_outputs()] == names
    expected = [features.logits, features.logits.softmax(1), *(exit.softmax(1) for exit in features.exits.values())]
    for found in (session.run(None, {"image": images}), again):
        for one, other in zip(expected, found, strict=True):
            assert np.abs(one.numpy() - np.asarray(other)).max() <= 1e-5


def test_the_file_says_what_it_was_told_and_nothing_of_this_machine(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(plain.read_bytes())
    model = onnx.load(path)
    assert {one.key: json.loads(one.value) for one in model.metadata_props} == {"classes": ["ä", "b"]}
    onnx.checker.check_model(model, full_check=True)
    for words in (b"site-packages", b"skinkd/", str(Path.home()).encode()):
        assert words not in path.read_bytes()
    write_metadata(path, {"a": "1"})
    assert onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map == {"a": "1"}


def test_parity_sees_a_difference() -> None:
    logits = np.array([[2.0, -4.0], [1.0, 0.0]], np.float32)
    shares = np.array([[0.9, 0.1], [0.6, 0.4]], np.float32)
    same = parity((logits, shares), (logits, shares))
    assert same == {"probability": 0.0, "logit": 0.0, "predictions": 0}
    other = parity((logits, shares), (logits + np.array([[0.4, 0], [0, 0]]), shares[:, ::-1]))
    assert other == {"probability": pytest.approx(0.8), "logit": pytest.approx(0.1), "predictions": 2}
