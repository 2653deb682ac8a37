"""Jobs on a SLURM cluster, as far as one machine without SLURM shows; tests/cluster has the rest."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from skinkd.errors import UserError
from skinkd.jobs.cluster import Command, Queue
from skinkd.training.processes import check_rank
from skinkd.training.trainer import build_trainer

Trained = Callable[..., Path]


def command(script: str, folder: Path) -> Command:
    return Command([sys.executable, "-S", "-c", f"import os, signal, sys, time\n{script}"], folder / "log", folder)


@pytest.mark.parametrize("code", [0, 1, 2, -9])
def test_the_exit_code_is_the_result(tmp_path: Path, code: int) -> None:
    script = f"sys.exit({code})" if code >= 0 else f"os.kill(os.getpid(), {-code})"
    assert command(script, tmp_path)() == code


@pytest.mark.parametrize("script", ["sys.exit(143)", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_a_run_that_was_asked_to_stop_has_no_result(tmp_path: Path, script: str) -> None:
    with pytest.raises(SystemExit) as end:
        command(script, tmp_path)()
    assert end.value.code == 143


def test_the_run_does_not_see_the_signal_that_queues_it_again(tmp_path: Path) -> None:
    assert command("os.kill(os.getpid(), signal.SIGUSR2); sys.exit(7)", tmp_path)() == 7


_ENDED = """
import signal, sys
from pathlib import Path
from skinkd.jobs.cluster import Command
folder = Path(sys.argv[1])
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(9))  # as submitit's handler does after it has queued the job again
slow = "import signal, sys, time; from pathlib import Path; "
slow += "signal.signal(15, lambda *_: (time.sleep(0.3), Path('checkpoint').touch(), sys.exit(143))); "
slow += "Path('ready').touch(); time.sleep(60)"
Command([sys.executable, "-S", "-c", slow], folder / "log", folder)()
"""


def test_a_job_that_is_queued_again_waits_for_the_checkpoint(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _ENDED, str(tmp_path)]) as task:
        while not (tmp_path / "ready").exists():
            assert task.poll() is None
            time.sleep(0.05)
        task.send_signal(signal.SIGUSR2)
        assert task.wait(60) == 9
    assert (tmp_path / "checkpoint").exists()


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the command ``squeue`` answers."""
    program = tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("skinkd.jobs.cluster._LOOK", 0.0)

    def answers(*lines: str, error: str = "") -> None:
        printed = "".join(f"echo {line}\n" for line in lines)
        program.write_text(f"#!/bin/sh\n{printed}" + (f"echo {error} >&2\nexit 1\n" if error else ""))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    return answers


def test_the_queue_says_twice_that_a_job_has_ended(squeue: Callable[..., None]) -> None:
    queue = Queue()
    for job in ("1", "2", "3"):
        queue.watch(job)
    assert queue.state("1") == "PENDING" and not queue.ended("1")
    squeue("1 RUNNING", "2 PREEMPTED", "3 CANCELLED")
    queue.look()
    assert [queue.ended(job) for job in "123"] == [False, False, False]
    squeue("1 COMPLETING", "2 PENDING")  # the third has left the queue
    queue.look()
    assert [queue.ended(job) for job in "123"] == [False, False, True]
    squeue("1 RUNNING", "2 RUNNING", error="slurm_load_jobs error: Unable to contact slurm controller")
    for _ in range(3):
        queue.look()
    assert [queue.ended(job) for job in "123"] == [False, False, True] and queue.state("2") == "PENDING"
    squeue(error="slurm_load_jobs error: Invalid job id specified")
    queue.look()
    queue.look()
    assert [queue.ended(job) for job in "123"] == [True, True, True]


@pytest.fixture
def in_slurm(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the variables that srun sets for its tasks."""

    def task(tasks: int, **more: str) -> None:
        given = {
            "JOB_ID": "17",
            "JOB_NAME": "skinkd",
            "NTASKS": str(tasks),
            "PROCID": "0",
            "LOCALID": "0",
            "NODEID": "0",
        }
        for name, value in (given | more).items():
            monkeypatch.setenv(f"SLURM_{name}", value)

    return task


def test_a_strange_checkpoint_in_the_current_folder_is_not_loaded(
    trained: Trained, finished: Path, in_slurm: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_slurm(1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes((finished / "checkpoints" / "last.ckpt").read_bytes())
    folder = trained()
    assert pd.read_csv(folder / "history.csv")["epoch"].tolist() == [1, 2]
    assert (folder / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()


def test_lightning_does_not_queue_the_job_again(tiny: list[str], in_slurm: Callable[..., None]) -> None:
    in_slurm(2, NTASKS_PER_NODE="2")
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        config = OmegaConf.to_container(compose("train", overrides=[*tiny, "strategy=ddp_cpu"]), resolve=True)
    trainer = build_trainer(config, callbacks=[], logger=None)  # type: ignore[arg-type]
    environment = trainer.strategy.cluster_environment
    assert type(environment).__name__ == "SLURMEnvironment" and not environment.auto_requeue
    assert trainer.world_size == 2


def test_tasks_without_their_number_on_a_node_are_refused(in_slurm: Callable[..., None]) -> None:
    in_slurm(2)
    with pytest.raises(UserError, match=r"srun started 2 processes .* --ntasks-per-node"):
        check_rank({"devices": 2, "accelerator": "cpu"})
    in_slurm(2, NTASKS_PER_NODE="2")
    check_rank({"devices": 2, "accelerator": "cpu"})
