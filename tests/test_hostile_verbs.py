"""Run folders and exported folders of strangers, given to the verbs that use a trained network: nothing runs, one sentence."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_module
from onnx import TensorProto, helper
from test_hostile_files import NAMES, payloads

import skinkd.evaluate
import skinkd.explain
import skinkd.export
import skinkd.predict
from skinkd.build.checkpoints import open_checkpoint
from skinkd.errors import UserError
from skinkd.inference.exported import open_exported
from skinkd.inference.fitted import fit_on_validation
from skinkd.web.opening import open_network

VERBS: dict[str, tuple[Callable[[Any], object], list[str]]] = {
    "predict": (skinkd.predict.predict, ["calibrate=true"]),
    "evaluate": (skinkd.evaluate.evaluate, ["data=synthetic"]),
    "export": (skinkd.export.export, ["latency.rounds=3"]),
    "explain": (skinkd.explain.explain, ["images=1"]),
    "app": (open_network, []),
}


def refused(verb: str, run: Path, *words: str, root: Path) -> str:
    """Give a run folder to a verb and return the sentence. Its own folders are below ``root``."""
    call, further = VERBS[verb]
    # predict and app have no paths of their own, and write nothing unasked
    paths = [f"paths.{name}={root}" for name in ("output_dir", "data_dir", "cache_dir")]
    paths = [] if verb in ("predict", "app") else paths
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        settings = compose(verb, overrides=[f"run={run}", *further, *paths, *words])
    with pytest.raises(UserError) as caught:
        call(settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def stranger(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "stranger"))


@pytest.fixture
def root(synthetic_root: Path, tmp_path: Path) -> Path:
    """The folders of the command, with the images of the run."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "synthetic").symlink_to(synthetic_root, target_is_directory=True)
    return folder


def everything(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("verb", VERBS)
def test_no_payload_of_a_card_runs(verb: str, stranger: Path, root: Path, tmp_path: Path) -> None:
    checkpoint, mark = stranger / "checkpoints" / "best.ckpt", tmp_path / "mark"
    stored = open_checkpoint(checkpoint, setting="run")
    # test_hostile_files.py has each payload at this place
    for name in ("write_text", "reference"):
        stored["skinkd"]["backbone"]["options"] = {"x": payloads(mark)[name]}
        torch.save(stored, checkpoint)
        before = everything(tmp_path)
        assert "backbone.options.x" in refused(verb, stranger, root=root)
        assert everything(tmp_path) == before


@pytest.mark.parametrize("verb", ["evaluate", "export", "explain"])
def test_no_payload_of_a_configuration_runs(verb: str, stranger: Path, synthetic_root: Path, tmp_path: Path) -> None:
    """Of a stored configuration these verbs build the table of images; predict and the page build nothing of it."""
    file = stranger / "config.yaml"
    config = yaml.safe_load(file.read_text())
    words = []
    if verb == "evaluate":  # of other data, which the run has not seen
        words = ["data.table.images=120", "data.table.height=48", "data.table.width=64", "data.table.seed=1"]
    table = config["data"]["table"]
    for name in ("runstring", "environment"):  # test_hostile_files.py has each payload at this place
        payload = payloads(tmp_path / "mark")[name]
        # evaluate draws no stranger's images, and so builds nothing of a table that is ours
        for spoilt in (payload,) if verb == "evaluate" else (table | {"y": payload}, payload):
            file.write_text(yaml.safe_dump(config | {"data": config["data"] | {"table": spoilt}}))
            sentence = refused(verb, stranger, *words, root=synthetic_root.parent)
            assert "data.table" in sentence or str(file) in sentence
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data": 3}, "is not the configuration of a run"),
        ({"method": None}, "is not the configuration of a run"),
        ({"evaluation": {"interval": 95}}, "evaluation.interval=95 is out of range"),
        (
            {"evaluation": {"bootstrap_replicates": 10**12}},
            "evaluation.bootstrap_replicates=1000000000000 is out of range",
        ),
        ({"data": {"eval_batch_size": "many"}}, "data.eval_batch_size=many is out of range"),
        ({"seed": -1}, "seed=-1 is out of range"),
    ],
)
def test_a_configuration_that_cannot_be_a_runs_is_named(
    change: dict[str, Any], sentence: str, stranger: Path, root: Path
) -> None:
    file = stranger / "config.yaml"
    config = yaml.safe_load(file.read_text())
    for name, value in change.items():
        config[name] = config[name] | value if isinstance(value, dict) else value
    file.write_text(yaml.safe_dump(config))
    said = refused("predict", stranger, root=root)
    assert sentence in said and str(file) in said


@pytest.mark.parametrize(
    ("verb", "link"),
    [
        ("evaluate", "evaluations"),
        ("evaluate", "evaluations/synthetic"),
        ("export", "export"),
        ("explain", "explanations"),
        ("explain", "explanations/sheets"),
    ],
)
def test_a_link_in_a_run_folder_leads_nowhere(verb: str, link: str, stranger: Path, root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (stranger / link).parent.mkdir(exist_ok=True)
    (stranger / link).symlink_to(elsewhere, target_is_directory=True)
    sentence = refused(verb, stranger, root=root)
    assert f"leads to {elsewhere}" in sentence and "out=<folder>" in sentence
    assert not list(elsewhere.iterdir())


def test_a_stored_configuration_chooses_no_folder(stranger: Path, root: Path, tmp_path: Path) -> None:
    """Its folders are those of somebody else, and these verbs would draw the images of its table there."""
    elsewhere = tmp_path / "elsewhere"
    config = yaml.safe_load((stranger / "config.yaml").read_text())
    config["run_dir"] = str(elsewhere / "run")
    config["paths"] = dict.fromkeys(config["paths"], str(elsewhere))
    config["data"]["table"]["root"] = str(tmp_path / "third" / "images")
    (stranger / "config.yaml").write_text(yaml.safe_dump(config))
    for verb in ("export", "explain"):
        assert "outside the folders of this command" in refused(verb, stranger, root=root)
    assert not elsewhere.exists() and not (tmp_path / "third").exists()


CARD = {
    "classes": ["a", "b"],
    "image_size": 8,
    "files": {"fp32": "model.onnx"},
    "input": {"name": "image", "dtype": "uint8"},
    "outputs": {"logits": "probabilities", "probabilities": "probabilities"},
}


def write_export(folder: Path, *, weights: str | None = None, dims: tuple[int, ...] = (2,), **card: Any) -> Path:
    """Write an exported folder whose network gives the same numbers for any image, from ``weights`` if that is a file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims)
    if weights is None:
        tensor.raw_data = np.full(dims, 0.5, np.float32).tobytes()
    else:
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", weights), ("offset", "0"), ("length", str(4 * int(np.prod(dims))))):
            tensor.external_data.add(key=key, value=value)
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [None, 3, 8, 8])
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, None)
    node = helper.make_node("Unsqueeze", ["w", "axes"], ["probabilities"])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    graph = helper.make_graph([node], "g", [image], [output], [tensor, axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "export.json").write_text(json.dumps(CARD | card))
    return folder


IMAGE = np.zeros((1, 3, 8, 8), np.uint8)


def test_weights_of_a_network_lie_in_its_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "secret").write_bytes(np.array([0.25, 0.75], np.float32).tobytes())
    export = tmp_path / "export"
    export.mkdir()
    shutil.copy(tmp_path / "secret", export / "own")
    (export / "link").symlink_to(tmp_path / "secret")
    (export / "sub").mkdir()
    os.mkfifo(export / "fifo")
    inside = open_exported(write_export(export, weights="own"), file="fp32")
    assert inside.probabilities(IMAGE).tolist() == [[0.25, 0.75]]
    for outside in ("../secret", f"{tmp_path}/secret", "sub/../../secret", "link", "fifo", "/proc/self/environ"):
        with pytest.raises(UserError, match=r"model\.onnx cannot be opened by ONNX Runtime"):
            open_exported(write_export(export, weights=outside), file="fp32")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", NAMES)
def test_no_payload_of_an_export_runs(name: str, tmp_path: Path) -> None:
    payload = payloads(tmp_path / "mark")[name]
    for key in CARD:
        with pytest.raises(UserError, match=rf"export\.json has {key}=|file=fp32"):
            open_exported(write_export(tmp_path / "export", **{key: payload}), file="fp32")
    network = open_exported(write_export(tmp_path / "export", conformal=payload, temperature=payload), file="fp32")
    for asked in ({"calibrate": True, "conformal": None}, {"calibrate": False, "conformal": 0.9}):
        with pytest.raises(UserError, match=r"the temperature in|are damaged"):
            fit_on_validation(network, coverage=None, **asked)
    (tmp_path / "export" / "preprocess.json").write_text(
        json.dumps(payload)
    )  # for other programs; read by none of ours
    assert open_exported(write_export(tmp_path / "export"), file="fp32").probabilities(IMAGE).shape == (1, 2)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "card",
    [
        {"image_size": 10**9},
        {"image_size": True},
        {"classes": ["a", 1]},
        {"classes": []},
        {"input": "image"},
        {"outputs": {"probabilities": "probabilities"}},
        {"files": []},
    ],
)
def test_what_no_export_has_is_named(card: dict[str, Any], tmp_path: Path) -> None:
    (key,) = card
    with pytest.raises(UserError, match=rf"export\.json has {key}="):
        open_exported(write_export(tmp_path / "export", **card), file="fp32")


def test_a_network_of_another_kind_is_named(tmp_path: Path) -> None:
    three = open_exported(write_export(tmp_path / "three", dims=(3,)), file="fp32")
    with pytest.raises(UserError, match=r"gives probabilities of shape \(1, 3\) for 1 images and 2 classes"):
        three.probabilities(IMAGE)
    other = open_exported(write_export(tmp_path / "other", input={"name": "x", "dtype": "uint8"}), file="fp32")
    with pytest.raises(UserError, match="does not take the images"):
        other.probabilities(IMAGE)
    os.remove(tmp_path / "other" / "model.onnx")
    os.mkfifo(tmp_path / "other" / "model.onnx")
    with pytest.raises(UserError, match=r"model\.onnx is not a file"):
        open_exported(tmp_path / "other", file="fp32")
