"""Full disks, folders that cannot be written, trackers that fail, a killed run whose loading processes live on, stray ranks."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_resume import STEP
from train_process import Act, Result, metrics_of, only_run

import skinkd.training.run
from skinkd.config.user_errors import user_errors
from skinkd.errors import UserError
from skinkd.runs.files import Lock, is_locked
from skinkd.runs.tracking import Report, Tracker
from skinkd.training.processes import check_rank, in_one_process
from skinkd.training.trainer import check_monitor

Trained = Callable[..., Path]
Job = Callable[..., Result]


def no_temporary_files() -> None:
    tempfile.tempdir = "/nowhere"


def test_a_run_writes_nothing_into_the_folder_of_temporary_files_and_is_one_process_of_a_large_allocation(
    job: Job,
) -> None:
    """So a full disk under TMPDIR, which is often another one than that of the runs, loses nothing.

    The allocation is that of sbatch --ntasks=4, where the command is started without srun, or where a sweep starts it.
    """
    slurm = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "sweep"}
    slurm |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_ID": "1"}
    no_folder = Act("skinkd.training.run:load_split", 1, no_temporary_files)
    result = job("trainer.max_epochs=1", act=no_folder, env=slurm)
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    ("file", "folder", "remedy"),
    [
        ("outputs/run/last.ckpt", "outputs/run", "paths.output_dir"),
        ("tmpab12", "", "TMPDIR"),
        ("pymp-x/a", "", "TMPDIR"),
    ],
)
def test_a_full_disk_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    folder: str,
    remedy: str,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SystemExit, match="2"), user_errors():
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / file))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"free space in {(tmp_path / folder)} or set {remedy}" in said


def block_checkpoints() -> None:
    (folder,) = Path("..").glob("outputs/supervised-*")
    (folder / "checkpoints").write_text("a file, where the folder should be")


def test_checkpoints_that_cannot_be_written_stop_the_run_at_the_first(job: Job, tmp_path: Path) -> None:
    result = job("trainer.max_epochs=3", act=Act(STEP, 1, block_checkpoints))
    assert result.code == 2
    assert result.err.count("\n") == 1 and "checkpoints" in result.err and "paths.output_dir" in result.err, result.err
    folder = only_run(tmp_path / "outputs")
    assert len((folder / "history.csv").read_text().splitlines()) == 2  # the header and the first epoch


class FailingTracker(Tracker):
    def report(self, report: Report) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/home/of/somebody/.cache")

    def finish(self, *, failed: bool) -> None:
        raise ConnectionError("the service is gone\nand more")


def test_a_failing_tracker_loses_no_finished_run(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(skinkd.training.run, "open_tracker", lambda *_: FailingTracker())
    folder = trained("trainer.max_epochs=1")
    assert metrics_of(folder)["epochs"] == 1
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: the tracker failed")]
    assert ["Permission denied" in warnings[0], "the service is gone" in warnings[1]] == [True, True]


def test_a_failing_tracker_hides_no_error(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skinkd.training.run, "open_tracker", lambda *_: FailingTracker())
    monkeypatch.setattr(skinkd.training.run, "score_and_report", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trained("trainer.max_epochs=1")


def test_a_lock_is_free_when_its_process_is_killed_though_its_children_live_on(tmp_path: Path) -> None:
    """Loading processes are forked with the lock open, and notice only seconds later that their run was killed."""
    code = """
import os, signal, sys, time
from pathlib import Path
from skinkd.runs.files import Lock
lock = Lock(Path(sys.argv[1]))
assert lock.take()
if os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        assert is_locked(tmp_path / ".lock")
        process.kill()
        process.wait()
        os.kill(child, 0)  # it lives
        assert Lock(tmp_path / ".lock").take()
        os.kill(child, signal.SIGKILL)


# test_midepoch.py has this with another method
@pytest.mark.slow
def test_a_killed_run_with_loading_processes_goes_on_at_once(job: Job, tmp_path: Path) -> None:
    killed = job("data.num_workers=2", act=Act(STEP, 3, kill_self))
    assert killed.code == -signal.SIGKILL
    began = time.monotonic()
    again = job("data.num_workers=2")
    assert again.code == 0, f"{again.err} after {time.monotonic() - began:.1f} s"


def kill_self() -> None:
    signal.raise_signal(signal.SIGKILL)


CPU = {"accelerator": "cpu", "devices": 1, "strategy": "auto"}
TWO = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


@pytest.mark.parametrize("name", RANKS)
def test_a_second_rank_of_a_run_in_one_process_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other in RANKS:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "1")
    with pytest.raises(UserError, match=f"{name}=1 in the environment"):
        check_rank(CPU)
    check_rank(TWO)
    monkeypatch.setenv(name, "0")
    check_rank(CPU)


def test_a_run_on_several_nodes_that_was_started_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would wait for the other nodes."""
    for name in (*RANKS, "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"trainer\.num_nodes=2 needs a command that starts a process on each node"):
        check_rank(TWO | {"num_nodes": 2})
    for name in ("RANK", "NODE_RANK"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "0")
            check_rank(TWO | {"num_nodes": 2})


def test_a_second_rank_writes_nothing(job: Job, tmp_path: Path) -> None:
    result = job(env={"SLURM_PROCID": "1", "SLURM_NTASKS": "2"})
    assert result.code == 2 and "SLURM_PROCID=1" in result.err and result.err.count("\n") == 1
    assert not list((tmp_path / "outputs").glob("*/*"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"devices": [0]}, True),
        ({"devices": "auto"}, True),
        ({"num_nodes": 2}, False),
        ({"devices": 2}, False),
    ],
)
def test_which_runs_are_in_one_process(changes: dict[str, Any], expected: bool) -> None:
    assert in_one_process(CPU | changes) is expected


@pytest.mark.parametrize(
    ("metric", "best"),
    [
        ("val/loss", "min"),
        ("val/ece", "min"),
        ("val/exit_1/brier", "min"),
        ("val/auroc_macro", "max"),
        ("val/f1/mel", "max"),
        ("val/exit_1/balanced_accuracy", "max"),
    ],
)
def test_the_mode_fits_the_metric(metric: str, best: str) -> None:
    check_monitor({"metric": metric, "mode": best})
    wrong = "max" if best == "min" else "min"
    with pytest.raises(UserError, match=f"monitor.mode={wrong} would choose the worst epoch.*set monitor.mode={best}"):
        check_monitor({"metric": metric, "mode": wrong})


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_metric_of_another_package_may_have_either_mode(mode: str) -> None:
    check_monitor({"metric": "val/retrieval_loss", "mode": mode})
    with pytest.raises(UserError, match=r"monitor\.mode=up"):
        check_monitor({"metric": "val/retrieval_loss", "mode": "up"})


def test_a_mode_that_would_choose_the_worst_epoch_is_refused_before_anything_is_written(
    job: Job, tmp_path: Path
) -> None:
    result = job("monitor.metric=val/loss")
    assert result.code == 2 and "set monitor.mode=min" in result.err and result.err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()
