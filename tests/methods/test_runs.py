"""Every method as a run: trains, scores, is loaded again, goes on after a kill, and in several processes."""

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
import train_process
import yaml
from hydra import compose, initialize_config_module
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf
from test_contract import METHODS
from world import networks_of

import skinkd.train
import skinkd.training.run
from skinkd.build.objects import build_data, build_method, build_network
from skinkd.build.tables import load_split
from skinkd.build.teachers import find_teacher, load_teacher
from skinkd.config.identity import run_path
from skinkd.config.resolve import resolved, teacher_config
from skinkd.runs.folder import RunFolder
from skinkd.training.scores import score_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Copy(Callback):
    """Copies the run's folder at the start of the second epoch: what a kill would leave at this moment."""

    def __init__(self, folder: Path, copy: Path) -> None:
        self.folder, self.copy = folder, copy

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            shutil.copytree(self.folder, self.copy)


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs of this file go, so that they share their teachers."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take half the time of a run this small, and are the same for every method."""
    for picture in ("plot_curves", "plot_confusion"):
        monkeypatch.setattr(f"skinkd.training.scores.{picture}", lambda *_, **__: None)


@pytest.fixture
def settings_of(tiny: list[str], output: Path) -> Callable[..., DictConfig]:
    plain = [text for text in tiny if not text.startswith("backbone")]

    def settings(name: str, *overrides: str) -> DictConfig:
        texts = [
            *plain,
            f"paths.output_dir={output}",
            f"method={name}",
            *networks_of(name),
            "backbone.pretrained=false",
        ]
        size = 64 if name == "swskd" else 32  # FRB needs a last stage of more than one cell
        texts += [f"data.image_size={size}", "trainer.limit_train_batches=2"]
        with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
            return compose("train", overrides=[*texts, *overrides])

    return settings


def train_teachers(settings: DictConfig) -> None:
    """Train the teachers of a run in this process, unless they have finished."""
    if "teacher" in settings.method and settings.method.teacher.ckpt == "auto":
        train(OmegaConf.create(teacher_config(settings)))


def train(settings: DictConfig) -> Path:
    """Train a run in this process, its teachers first."""
    train_teachers(settings)
    try:
        skinkd.train.train(settings)
    finally:
        gc.collect()  # the folder's lock is held until its object goes
    return run_path(resolved(settings))


def last_state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


# test_train.py has runs of supervised; the others differ from supervised, kd or fitnet in a loss, which test_contract.py has
LIKE_ANOTHER = ("supervised", "at", "rkd", "d_kd", "dkd", "dist", "tf_kd")
# a memory of each training image, a frozen part of the network, a teacher; test_resume.py has further methods
WITH_STATE = ("crd", "dlb", "ps_kd", "ssdkd", "mskd")


def check(folder: Path, settings: DictConfig) -> None:
    """The terms, scores and checkpoint of a run."""
    history = pd.read_csv(folder / "history.csv")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    active = {term for term, weight in config["method"]["loss_weights"].items() if weight}
    found = {column.removeprefix("train/") for column in history if column.startswith("train/")}
    assert found == active | {"loss"}
    assert np.isfinite(history[[f"train/{term}" for term in found]]).all(axis=None)
    assert (folder / "metrics.json").exists()

    # its checkpoint, loaded into a method built anew, predicts what the run did
    table, parts = load_split(config)
    data = build_data(config, table, parts)
    taught = None
    if "teacher" in config["method"]:
        taught = load_teacher(config, find_teacher(settings), table, parts)
    network = build_network(config, classes=data.classes)
    method = build_method(config, data, network, taught)
    scored = score_checkpoint(config, data, method, folder / "checkpoints" / "best.ckpt", parts=["test"])["test"][""]
    stored = pd.read_csv(folder / "predictions" / "test.csv")
    columns = [column for column in stored if column.startswith("p_")]
    np.testing.assert_allclose(scored.table[columns], stored[columns], rtol=1e-6, atol=1e-8)


# the run that goes on, below, is checked alike
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LIKE_ANOTHER + WITH_STATE else ()) for name in METHODS],
)
def test_a_run_of_the_method(name: str, settings_of: Callable[..., DictConfig]) -> None:
    settings = settings_of(name, "trainer.max_epochs=1")
    check(train(settings), settings)


def short_teachers(name: str) -> list[str]:
    """Teachers of one epoch, as those of the runs above."""
    teacher = "method.teacher.run.trainer.max_epochs=1"
    taught = {"crd": [teacher], "mskd": [teacher], "ssdkd": [teacher, f"method.teacher.run.{teacher}"]}
    return taught.get(name, [])


@pytest.mark.parametrize(
    "name", [name if name in WITH_STATE else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_killed_in_its_second_epoch_and_given_again_it_ends_as_it_did(
    name: str, settings_of: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(name, "force=true", *short_teachers(name))  # as another method's teacher it may be there
    train_teachers(settings)
    callbacks = skinkd.training.run.fit_callbacks

    def with_copy(config: dict[str, Any], folder: RunFolder, *args: Any) -> list[Callback]:
        return [*callbacks(config, folder, *args), Copy(folder.path, tmp_path / folder.path.name)]

    with monkeypatch.context() as patch:
        patch.setattr(skinkd.training.run, "fit_callbacks", with_copy)
        # the training alone: what is scored follows from the checkpoint, as below
        patch.setattr(skinkd.training.run, "score_and_report", lambda *_, **__: None)
        folder = train(settings)
    whole = last_state(folder)
    shutil.rmtree(folder)
    shutil.move(tmp_path / folder.name, folder)
    settings.force = False
    assert train(settings) == folder
    resumed = last_state(folder)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    check(folder, settings)


def test_exits_are_scored_and_give_a_curve(settings_of: Callable[..., DictConfig]) -> None:
    folder = train(settings_of("mskd", *short_teachers("mskd")))  # the run above
    metrics = train_process.metrics_of(folder)
    for exit in ("exit_1", "exit_2"):
        assert 0 <= metrics[f"test/{exit}/accuracy"] <= 1
        assert 0 <= metrics[f"val/{exit}/balanced_accuracy"] <= 1
    assert "teacher/test/accuracy" in metrics
    curve = pd.read_csv(folder / "predictions" / "early_exit.csv")
    shares = curve[["share_exit_1", "share_exit_2", "share_final"]]
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (np.diff(curve["macs"]) >= 0).all()
    last = curve.iloc[-1]
    assert last["share_final"] == 1
    assert last["accuracy"] == pytest.approx(metrics["test/accuracy"])


def test_exits_that_nothing_trained_are_not_scored(settings_of: Callable[..., DictConfig]) -> None:
    """mskd_teacher without its attention exits: what they say is random and belongs in no number."""
    folder = train(settings_of("mskd_teacher", "method.loss_weights.attention_exits=0", "trainer.max_epochs=1"))
    trained = ["attention_branch", "conv_exit_1", "conv_exit_2", "conv_branch"]
    scored = {name.split("/")[1] for name in train_process.metrics_of(folder) if name.endswith("/accuracy")} - {
        "accuracy"
    }
    assert scored == set(trained)
    curve = pd.read_csv(folder / "predictions" / "early_exit.csv")
    shares = [column for column in curve if column.startswith("share_")]
    assert shares == [f"share_{name}" for name in (*trained, "final")]
    np.testing.assert_allclose(curve[shares].sum(axis=1), 1)


@pytest.mark.slow
def test_a_compiled_teacher_teaches_the_same(settings_of: Callable[..., DictConfig]) -> None:
    plain = pd.read_csv(train(settings_of("kd")) / "history.csv")
    compiled = pd.read_csv(train(settings_of("kd", "method.teacher.compile=true")) / "history.csv")
    terms = ["train/ce", "train/kd", "train/loss"]
    # the first epoch: fused arithmetic rounds otherwise, and what follows drifts apart
    np.testing.assert_allclose(compiled[terms].iloc[0], plain[terms].iloc[0], rtol=1e-3)
    assert len(compiled) == len(plain)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_processes(
    name: str, settings_of: Callable[..., DictConfig], tiny: list[str], output: Path, tmp_path: Path
) -> None:
    """DDP refuses parameters that no loss reaches, and every process holds the same teacher."""
    train(settings_of(name))  # leaves the teachers in the store
    plain = [text for text in tiny if not text.startswith(("backbone", "strategy"))]
    result = train_process.run(
        [*plain, f"paths.output_dir={output}", f"method={name}", *networks_of(name), "backbone.pretrained=false",
         "trainer.limit_train_batches=2", "strategy=ddp_cpu", f"run_dir={tmp_path / 'run'}"],
        folder=tmp_path / "job",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert (tmp_path / "run" / "metrics.json").exists()
