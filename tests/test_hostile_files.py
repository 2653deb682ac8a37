"""A checkpoint, a config.yaml or a teacher from somebody else: none of their code runs, and one sentence says why."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from skinkd.build.checkpoints import open_checkpoint, rebuild
from skinkd.build.construct import build
from skinkd.build.seen import own_images
from skinkd.config import cli
from skinkd.config.resolve import read_config
from skinkd.config.targets import ENVIRONMENT, MOST_NODES, check_config, check_targets, take_allowed
from skinkd.data.source import source_of
from skinkd.errors import UserError
from skinkd.train import train

Refused = Callable[..., str]


def payloads(mark: Path) -> dict[str, Any]:
    """Ways to make the file ``mark``; each works with Hydra's own instantiate or once did."""
    code = f"open({str(mark)!r}, 'w')"
    return {
        "runstring": {"_target_": "numpy.testing.runstring", "_args_": [code, {}]},
        "write_text": {
            "_target_": "pathlib.Path.write_text",
            "_args_": [{"_target_": "pathlib.Path", "_args_": [str(mark)]}, "x"],
        },
        "eval": {"_target_": "builtins.eval", "_args_": [code]},
        "Popen": {"_target_": "subprocess.Popen", "args": ["touch", str(mark)]},
        "system": {"_target_": "os.system", "command": f"touch {mark}"},
        "through ours": {"_target_": "skinkd.data.files.os.system", "command": f"touch {mark}"},
        "through albumentations": {"_target_": "albumentations.core.utils.os.system", "command": f"touch {mark}"},
        "partial": {"_target_": "os.system", "_partial_": True, "command": f"touch {mark}"},
        "map": {"_target_": "builtins.list", "_args_": [{"_target_": "builtins.map"}]},
        "not text": {"_target_": ["os.system"], "command": f"touch {mark}"},
        "reference": "${oc.create:'{_target_: os.system, command: touch " + str(mark) + "}'}",
        "environment": "${oc.env:HOME}",
    }


NAMES = list(payloads(Path("mark")))
PLACES = {
    "data.table": {"_target_": "skinkd.data.ham10000.load_ham10000"},
    "augment.train": [{"_target_": "albumentations.NoOp", "p": 1.0}],
    "backbone": {"_target_": "skinkd.models.backbone.Backbone"},
    "method": {"_target_": "skinkd.methods.swskd.SWSKD"},
    "optim.optimizer": {"_target_": "torch.optim.SGD", "_partial_": True},
    "optim.schedule": {"_target_": "skinkd.methods.schedules.cosine", "_partial_": True},
}


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs ``python -m skinkd.train`` or ``evaluate`` in this process and returns the sentence; the exit code must be 2."""

    def run(verb: str, *words: str) -> str:
        from skinkd.evaluate import evaluate

        monkeypatch.setattr(sys, "argv", [verb, *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main({"train": train, "evaluate": evaluate}[verb], verb)
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in said
        return sentence

    return run


@pytest.fixture
def stranger(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "stranger"))


def spoil_card(run: Path, payload: Any) -> Path:
    checkpoint = run / "checkpoints" / "best.ckpt"
    stored = torch.load(checkpoint, weights_only=True)
    stored["skinkd"]["backbone"]["options"] = {"x": payload}
    torch.save(stored, checkpoint)
    return checkpoint


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_no_payload_is_built(name: str, place: str, nested: bool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    payload = payloads(mark)[name]
    tree = PLACES[place]
    if nested:
        spoilt = {"x": [1, {"deep": [[payload]]}]}
        tree = [*tree, spoilt] if isinstance(tree, list) else tree | spoilt
    else:
        tree = [payload] if isinstance(tree, list) or isinstance(payload, str) else payload
    with pytest.raises(UserError) as caught:
        build(tree, place=place)
    assert "\n" not in str(caught.value) and place in str(caught.value)
    with pytest.raises(UserError):
        build({**PLACES["backbone"], "name": "resnet18"}, place="backbone", further=payload)
    assert not mark.exists()


@pytest.mark.parametrize("place", PLACES)
def test_what_the_project_names_itself_is_allowed(place: str) -> None:
    check_targets(PLACES[place], place=place)
    for other in PLACES:
        if other != place:  # a loader is no network
            with pytest.raises(UserError):
                check_targets({"x": PLACES[other]}, place=place)


@pytest.mark.parametrize("name", ["skinkd.data.transforms.A", "skinkd.methods.swskd.Tensor", "albumentations.Lambda"])
def test_what_a_module_of_ours_has_imported_is_refused(name: str) -> None:
    place = "method" if "methods" in name else "augment.train"
    with pytest.raises(UserError, match="is refused"):
        build({"_target_": name}, place=place)


def test_weights_that_are_a_configuration_are_refused(stranger: Path, tmp_path: Path) -> None:
    """The weights that are not the network's go to the method, among the arguments that Hydra reads."""
    checkpoint = stranger / "checkpoints" / "best.ckpt"
    stored = torch.load(checkpoint, weights_only=True)
    stored["state_dict"] |= payloads(tmp_path / "mark")["system"]
    torch.save(stored, checkpoint)
    with pytest.raises(UserError, match="are not tensors"):
        open_checkpoint(checkpoint, setting="run")
    with pytest.raises(UserError, match="is refused"):
        build({**PLACES["method"], "teacher_state": stored["state_dict"]}, place="method")
    assert not (tmp_path / "mark").exists()


def test_no_pickle_is_read_through_timm(stranger: Path, tmp_path: Path) -> None:
    checkpoint = spoil_card(stranger, None)
    stored = torch.load(checkpoint, weights_only=True)
    for option in ("checkpoint_path", "pretrained_cfg", "cache_dir"):
        stored["skinkd"]["backbone"]["options"] = {option: str(tmp_path / "any.pth")}
        with pytest.raises(UserError, match=option):
            rebuild(stored)


def test_no_module_is_imported_to_ask_for_a_datasets_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger_loader.py").write_text("open('mark', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert source_of({"_target_": "stranger_loader.load_x"}) is None
    assert not (tmp_path / "mark").exists()


def test_the_table_of_a_strangers_run_is_checked(tmp_path: Path) -> None:
    run = {"data": {"table": payloads(tmp_path / "mark")["system"]}, "paths": {}, "protocol": "grouped"}
    with pytest.raises(UserError, match=r"data\.table"):
        own_images(run, {"images": {}, "groups": {}}, {})
    assert not (tmp_path / "mark").exists()


def test_evaluate_refuses_a_strangers_card(stranger: Path, refused: Refused, tiny: list[str], tmp_path: Path) -> None:
    words = [word for word in tiny if word.startswith(("data", "paths"))]
    spoil_card(stranger, payloads(tmp_path / "mark")["runstring"])
    sentence = refused("evaluate", f"run={stranger}", *words)
    assert "backbone.options.x" in sentence and not (tmp_path / "mark").exists()


@pytest.mark.parametrize("place", [*PLACES, "method.teacher.run.backbone", "method.teacher.run.data.table"])
def test_a_strangers_configuration_is_refused(place: str, stranger: Path, refused: Refused, tmp_path: Path) -> None:
    config = yaml.safe_load((stranger / "config.yaml").read_text())
    payload = payloads(tmp_path / "mark")["write_text"]
    config["method"]["teacher"] = {"ckpt": "auto", "run": {"backbone": {}, "data": {"table": {}}}}
    *groups, last = place.split(".")
    node = config
    for name in groups:
        node = node[name]
    node[last] = payload
    (stranger / "config.yaml").write_text(yaml.safe_dump(config))
    before = sorted(tmp_path.rglob("*"))
    for flag in ([], ["-m"]):  # a sweep's job too
        sentence = refused("train", *flag, f"config={stranger}/config.yaml", "force=true")
        assert f"{place}" in sentence and "write_text" in sentence
        assert not (tmp_path / "mark").exists()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_strangers_teacher_is_refused(stranger: Path, refused: Refused, tiny: list[str], tmp_path: Path) -> None:
    for name in ("write_text", "eval"):
        checkpoint = spoil_card(stranger, [[payloads(tmp_path / "mark")[name]]])
        out = tmp_path / "outputs"
        sentence = refused("train", *tiny, f"paths.output_dir={out}", "method=kd", f"method.teacher.ckpt={checkpoint}")
        assert "backbone.options.x[0][0]" in sentence
        assert not (tmp_path / "mark").exists() and not list(out.glob("*/metrics.json"))


def billion(levels: int) -> str:
    """YAML whose anchors stand for 10^levels values."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, levels + 1)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        billion(12),
        "a: &a [*a]",
        "a: " + "[" * 1000,
        "a: " + "[" * 500 + "]" * 500,
        "a0: &a0 {k: 1}\n" + "\n".join(f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 10)}]}}" for k in range(1, 10)),
        'seed: "\\x24{oc.env:HOME}"',
        "- 1\n- 2",
        "\x00",
        "!!python/object/apply:os.system [true]",
    ],
    ids=["anchors", "circle", "unclosed", "deep", "merges", "reference", "list", "binary", "object"],
)
def test_yaml_cannot_be_blown_up(text: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_config(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_card_cannot_be_blown_up(monkeypatch: pytest.MonkeyPatch) -> None:
    node: Any = ["x"]
    for _ in range(12):
        node = [node] * 10
    with pytest.raises(UserError, match=str(MOST_NODES)):
        check_targets({**PLACES["backbone"], "options": {"x": node}}, place="backbone")
    circle: dict[str, Any] = {}
    circle["again"] = circle
    monkeypatch.setattr("skinkd.config.targets.MOST_NODES", 5000)  # the names in a circle grow with each value
    with pytest.raises(UserError, match="more than 5000 values"):
        check_targets(circle, place="backbone")


def test_what_a_run_stores_is_read_as_before(finished: Path) -> None:
    stored = read_config(finished / "config.yaml")
    assert stored == yaml.safe_load((finished / "config.yaml").read_text())
    check_config(stored)


def test_ones_own_package_is_allowed_by_the_command_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_loaders.py").write_text("import os\n\n\ndef load_x(root):\n    return root\n")
    tree = {"_target_": "my_loaders.load_x", "root": "here"}
    with pytest.raises(UserError, match=r"add allow_targets=my_loaders to the command"):
        build(tree | {"allow_targets": "my_loaders"}, place="data.table")
    assert take_allowed(["-m", "allow_targets=[my_loaders, other]", "seed=0"]) == ["-m", "seed=0"]
    assert os.environ[ENVIRONMENT] == "my_loaders,other"  # which every process started from here has too
    assert build(tree, place="data.table") == "here"
    with pytest.raises(UserError, match="defines it and not my_loaders"):
        build({"_target_": "my_loaders.os.getcwd"}, place="data.table")
    with pytest.raises(UserError):
        build({"_target_": "my_loaders_of_another.load_x"}, place="data.table")
    with pytest.raises(UserError):
        build({"_target_": "numpy.testing.runstring"}, place="data.table")


@pytest.mark.parametrize("word", ["os", "builtins", "subprocess.run", "hydra", "", "a b", "mine/", "*"])
def test_what_no_package_is_cannot_be_allowed(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "")
    with pytest.raises(UserError, match="allow_targets="):
        take_allowed([f"allow_targets={word}"])
    assert os.environ[ENVIRONMENT] == ""


def test_an_allowed_network_computes(finished: Path) -> None:
    network, card, _ = rebuild(open_checkpoint(finished / "checkpoints" / "best.ckpt", setting="run"))
    image = torch.from_numpy(np.zeros((2, 3, 32, 32), np.uint8))
    assert network(image).shape == (2, len(card["classes"]))
