"""Number formats and memory layouts that skinkd chooses: by which rule, and that a run keeps them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch import nn

from skinkd.build.formats import Choice, Device, device_of, fastest, formats_in_words, with_formats
from skinkd.build.objects import build_data
from skinkd.build.tables import load_split
from skinkd.config.identity import identity, run_path
from skinkd.config.resolve import read_config, resolved, teacher_config
from skinkd.errors import UserError
from skinkd.inference.trained import open_trained
from skinkd.scoring.predictions import probability_columns, read_predictions

Trained = Callable[..., Path]
AUTO = ["precision=auto", "channels_last=auto"]
AMX, PLAIN = Device("cpu", multiplies_bf16=True), Device("cpu", multiplies_bf16=False)
FORMAT_SETTINGS = ("trainer.precision", "channels_last", "method.teacher.bf16", "method.teacher.channels_last")


def config_of(*overrides: str) -> dict[str, Any]:
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        return resolved(compose("train", ["data=synthetic", "backbone.pretrained=false", *overrides]))


def chosen(config: dict[str, Any]) -> dict[str, Any]:
    teacher = config["method"].get("teacher", {})
    values = (
        config["trainer"]["precision"],
        config["channels_last"],
        teacher.get("bf16"),
        teacher.get("channels_last"),
    )
    return dict(zip(FORMAT_SETTINGS, values, strict=True))


@pytest.mark.parametrize(
    ("name", "device", "choice"),
    [
        ("resnet18", AMX, Choice(train_bf16=True, pass_bf16=True, channels_last=True)),
        ("mobilenetv2_100", AMX, Choice(train_bf16=False, pass_bf16=True, channels_last=True)),
        ("resnet18", PLAIN, Choice(train_bf16=False, pass_bf16=False, channels_last=True)),
        ("mobilenetv2_100", PLAIN, Choice(train_bf16=False, pass_bf16=False, channels_last=True)),
        ("test_vit.r160_in1k", AMX, Choice(train_bf16=False, pass_bf16=True, channels_last=False)),
        ("test_vit.r160_in1k", Device("cuda", True), Choice(train_bf16=True, pass_bf16=True, channels_last=False)),
        ("mobilenetv2_100", Device("cuda", True), Choice(train_bf16=True, pass_bf16=True, channels_last=True)),
        ("test_vit.r160_in1k", PLAIN, Choice(train_bf16=False, pass_bf16=False, channels_last=False)),
        ("resnet18", Device("mps", multiplies_bf16=False), Choice(False, False, False)),
    ],
)
def test_the_rule(name: str, device: Device, choice: Choice) -> None:
    with torch.device("meta"):
        network = timm.create_model(name)
    assert fastest(network, device) == choice


def test_the_device_is_that_of_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert device_of({"accelerator": "auto"}) == device_of({"accelerator": "gpu"}) == Device("cuda", False)
    assert device_of({"accelerator": "cpu"}).kind == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device_of({"accelerator": "auto"}).kind == "cpu"


@pytest.fixture
def with_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that multiplies matrices of bfloat16, as not every machine that runs the tests has."""
    monkeypatch.setattr("skinkd.build.formats.device_of", lambda trainer: AMX)


class Convolutions(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))


@pytest.mark.usefixtures("with_units")
def test_auto_is_replaced_and_the_name_of_the_run_stays() -> None:
    config = config_of("method=kd", *AUTO)
    assert set(chosen(config).values()) == {"auto"}
    fast = with_formats(config, Convolutions(), teacher=Convolutions(), begun=None)
    assert chosen(fast) == dict(zip(FORMAT_SETTINGS, ("bf16-mixed", True, True, True), strict=True))
    assert set(fast["given"].values()) == {"auto"}
    assert identity(fast) == identity(config)
    assert formats_in_words(fast) == [
        "trainer.precision bf16-mixed (auto)",
        "channels_last true (auto)",
        "method.teacher.bf16 true (auto)",
        "method.teacher.channels_last true (auto)",
    ]


@pytest.mark.usefixtures("with_units")
def test_what_the_command_gives_stays() -> None:
    plain = config_of("method=kd", "precision=fp32", "channels_last=false", "method.teacher.bf16=false")
    assert chosen(plain) == dict(zip(FORMAT_SETTINGS, ("32-true", False, False, False), strict=True))
    assert with_formats(plain, Convolutions(), teacher=Convolutions(), begun=None) == plain
    assert formats_in_words(plain)[1] == "channels_last false"


@pytest.mark.usefixtures("with_units")
def test_two_switches_are_the_plain_formats_everywhere() -> None:
    """SSD-KD with channels_last=false method.teacher.bf16=false, its teacher, and that teacher's teacher."""
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        settings = compose(
            "train", ["method=ssdkd", "data=synthetic", "channels_last=false", "method.teacher.bf16=false"]
        )
    while True:
        config = resolved(settings)
        run = with_formats(config, Convolutions(), teacher=Convolutions(), begun=None)
        assert not {"bf16-mixed", True, "auto"} & set(chosen(run).values())
        if "teacher" not in config["method"]:
            break
        settings = OmegaConf.create(teacher_config(settings))
    assert config["method"]["name"] == "supervised"


@pytest.mark.usefixtures("with_units")
def test_what_the_run_began_with_stays() -> None:
    config = config_of("method=kd", *AUTO)
    begun = config | {"channels_last": False, "trainer": config["trainer"] | {"precision": "32-true"}}
    begun["method"] = config["method"] | {
        "teacher": config["method"]["teacher"] | {"bf16": False, "channels_last": False}
    }
    kept = with_formats(config, Convolutions(), teacher=Convolutions(), begun=begun)
    assert (
        chosen(kept)
        == chosen(begun)
        != chosen(with_formats(config, Convolutions(), teacher=Convolutions(), begun=None))
    )
    assert identity(kept) == identity(config)


@pytest.mark.parametrize("method", ["kd", "ssdkd", "mskd", "tf_kd_self"])
@pytest.mark.usefixtures("with_units")
def test_the_teacher_of_a_stored_run_is_that_of_its_command(method: str, tmp_path: Path) -> None:
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        settings = compose("train", [f"method={method}", "data=synthetic", "backbone.pretrained=false", *AUTO])
    stored = with_formats(resolved(settings), Convolutions(), teacher=Convolutions(), begun=None)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    again = OmegaConf.create(read_config(tmp_path / "config.yaml"))
    assert run_path(teacher_config(again)) == run_path(teacher_config(settings))
    assert identity(resolved(again)) == identity(resolved(settings))
    assert chosen(resolved(again)) == chosen(stored)


@pytest.mark.parametrize("setting", ["channels_last", "method.teacher.bf16", "method.teacher.channels_last"])
def test_another_word_is_refused(setting: str, train_tiny: Trained, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^{setting}=fast is not a valid value; .*valid: auto, false, true$"):
        train_tiny(tmp_path, "method=kd", f"{setting}=fast")
    assert not [*tmp_path.iterdir()]


@pytest.fixture(scope="module")
def explicit(train_tiny: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in bfloat16 and channels-last, for reading only."""
    with pytest.MonkeyPatch.context() as patch:
        for picture in ("plot_curves", "plot_confusion"):
            patch.setattr(f"skinkd.training.scores.{picture}", lambda *_, **__: None)
        output = tmp_path_factory.mktemp("explicit")
        return train_tiny(output, "precision=bf16", "channels_last=true", "trainer.max_epochs=1")


def test_a_run_that_moves_keeps_its_formats(
    explicit: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained where bfloat16 is fast, without its test scores, and ended where it is not, with the bytes of its choice."""
    command = [*AUTO, "trainer.max_epochs=1"]
    monkeypatch.setattr("skinkd.build.formats.device_of", lambda trainer: AMX)
    folder = trained(*command, "evaluation.test=false")
    assert "training in bfloat16 and channels-last" in capsys.readouterr().out
    monkeypatch.setattr("skinkd.build.formats.device_of", lambda trainer: PLAIN)
    assert trained(*command) == folder
    config = read_config(folder / "config.yaml")
    assert chosen(config)["trainer.precision"] == "bf16-mixed" and config["channels_last"] is True
    assert "trainer.precision bf16-mixed (auto)\n" in (folder / "environment.txt").read_text()
    assert "channels_last true (auto)\n" in (folder / "environment.txt").read_text()
    assert folder.name != explicit.name
    assert (folder / "predictions" / "test.csv").read_bytes() == (explicit / "predictions" / "test.csv").read_bytes()
    # begun again, it chooses again
    config = read_config(trained(*command, "force=true") / "config.yaml")
    assert chosen(config)["trainer.precision"] == "32-true"


def test_a_network_trained_in_bfloat16_is_scored_in_float32(explicit: Path) -> None:
    """As it is deployed: its scores are those that predict and export give."""
    config = read_config(explicit / "config.yaml")
    data = build_data(config, *load_split(config))
    data.setup("test")
    network = open_trained(str(explicit))
    network.network.to(memory_format=torch.channels_last)
    probability = np.concatenate([network.probabilities(batch.image.numpy()) for batch in data.test_dataloader()])
    stored, classes = read_predictions(explicit / "predictions" / "test.csv")
    np.testing.assert_array_equal(stored[probability_columns(classes)].to_numpy(), probability.astype(np.float32))
