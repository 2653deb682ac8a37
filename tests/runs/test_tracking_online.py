"""W&B online: what a stand-in for the server holds after runs that were killed, synced later, or lost the server."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from train_process import Act, Result, metrics_of, only_run
from wandb_server import StoredRun, WandbServer

Trained = Callable[..., Path]
Job = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with WandbServer() as listening:
        yield listening


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_of(server: WandbServer, folder: Path) -> StoredRun:
    """The run of a folder, which must be the server's only run."""
    assert set(server.runs) == {(folder / "wandb_run_id").read_text().strip()}
    assert server.unknown == []
    (run,) = server.runs.values()
    return run


def check_numbers(run: StoredRun, folder: Path, *, lost: int = 0) -> None:
    """The summary is metrics.json, and the curves are history.csv, of which ``lost`` epochs may be missing at the beginning."""
    numbers = metrics_of(folder)
    assert {name: run.summary.get(name) for name in numbers} == pytest.approx(numbers)
    history = pd.read_csv(folder / "history.csv")
    for name in [name for name in history if name.startswith("val/")]:
        curve = [row[name] for row in run.history if name in row]
        assert len(curve) >= len(history) - lost
        assert curve == pytest.approx(history[name].tolist()[-len(curve) :], rel=1e-5), name
    assert run.exit_code == 0 and run.config["seed"] == 0


def test_a_killed_run_goes_on_as_the_same_run(job: Job, server: WandbServer, tmp_path: Path) -> None:
    overrides = ("logger=wandb", "logger.log_checkpoint=true", "trainer.log_every_n_steps=1")
    assert job(*overrides, env=server.environment, act=Act("skinkd.methods.base:Method.combine", 8, kill)).code == -9
    result = job(*overrides, env=server.environment)
    assert result.code == 0, result.err
    assert "W&B" not in result.out + result.err
    folder = only_run(tmp_path / "outputs")
    run = run_of(server, folder)
    assert run.opened == 2
    check_numbers(
        run, folder, lost=1
    )  # the client sends rows every 15 s, and was killed before; they are in its local file
    assert run.given["displayName"] == folder.name and run.given["jobType"] == "baseline"
    assert "seed=0" in run.given["tags"]
    assert "config.yaml" in run.files and any("confusion_matrix" in name for name in run.files)

    artifact = server.artifacts[f"checkpoint-{folder.joinpath('wandb_run_id').read_text().strip()}"]
    assert artifact.type == "model" and artifact.committed
    assert list(json.loads(artifact.manifest)["contents"]) == ["best.ckpt"]
    assert artifact.files["best.ckpt"] == (folder / "checkpoints" / "best.ckpt").read_bytes()
    assert torch.load(io.BytesIO(artifact.files["best.ckpt"]), weights_only=True)["epoch"] >= 0


def sync(folder: Path, server: WandbServer) -> None:
    """Upload the folder's W&B runs, as the printed line says."""
    runs = [str(run) for run in sorted((folder / "wandb").glob("*run-*-*"))]
    command = [sys.executable, "-m", "wandb", "sync", "--no-skip-online", *runs]
    result = subprocess.run(
        command, env=os.environ | server.environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_offline_run_is_synced(trained: Trained, server: WandbServer) -> None:
    folder = trained("logger=wandb", "logger.log_checkpoint=true", "trainer.max_epochs=1")
    assert server.requests == 0
    sync(folder, server)
    check_numbers(run_of(server, folder), folder)
    (checkpoint,) = [artifact for artifact in server.artifacts.values() if artifact.type == "model"]
    assert checkpoint.committed
    assert checkpoint.files["best.ckpt"] == (folder / "checkpoints" / "best.ckpt").read_bytes()


def end_server() -> None:
    """In the training process: let the server die now."""
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{os.environ['WANDB_BASE_URL']}/die", data=b"", timeout=10)


def test_a_server_that_dies_costs_the_run_nothing(job: Job, server: WandbServer, tmp_path: Path) -> None:
    """The server is gone in the second epoch. Training goes on, its end waits no longer than it was told to, and a later sync
    to a new server delivers all."""
    # a table asks the server first; W&B's client would ask again for 20 s
    environment = {**server.environment, "WANDB_FINISH_TIMEOUT": "1", "WANDB__GRAPHQL_RETRY_MAX": "1"}
    result = job("logger=wandb", env=environment, act=Act("skinkd.methods.base:Method.combine", 8, end_server))
    assert result.code == 0, result.err
    folder = only_run(tmp_path / "outputs")
    assert metrics_of(folder)["epochs"] == 2
    assert server.runs and all(run.exit_code is None for run in server.runs.values())
    assert "W&B did not take all data in time; to upload the rest: wandb sync --no-skip-online" in result.out
    with WandbServer() as later:
        sync(folder, later)
        check_numbers(run_of(later, folder), folder)


@pytest.mark.slow
def test_a_slow_server_delays_no_step(job: Job, server: WandbServer, tmp_path: Path) -> None:
    server.delay = 2.0
    result = job("logger=wandb", env=server.environment)
    assert result.code == 0 and "W&B" not in result.out, result.out + result.err
    check_numbers(run_of(server, only_run(tmp_path / "outputs")), only_run(tmp_path / "outputs"))


@pytest.mark.slow
@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_server_that_refuses_makes_it_go_offline(job: Job, server: WandbServer, tmp_path: Path, status: int) -> None:
    server.refusal = status
    result = job("logger=wandb", "trainer.max_epochs=1", env=server.environment)
    assert result.code == 0, result.err
    assert "W&B cannot be reached" in result.out and "W&B logs offline" in result.out
    folder = only_run(tmp_path / "outputs")
    server.refusal = None
    sync(folder, server)
    check_numbers(run_of(server, folder), folder)
