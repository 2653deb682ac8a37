"""Sweeps of real trainings: each job is the single command, in a process of its own; one that fails stops no other, and a
sweep that was killed goes on. What the pool decides by itself is in jobs/test_pool.py."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import train_process
import yaml
from train_process import metrics_of
from wandb_file import WandbFile

from skinkd.config.overrides import check_overrides
from skinkd.errors import UserError

SECONDS = 900


def start(overrides: list[str], folder: Path) -> train_process.Running:
    """Start a sweep in ``folder``, in a session of its own; it and its jobs are forks."""
    return train_process.start(["-m", *overrides], folder=folder, session=True, fork_children=True)


def sweep(overrides: list[str], folder: Path) -> train_process.Result:
    return start(overrides, folder).result(SECONDS)


def cold_sweep(overrides: list[str], folder: Path, **environment: str) -> train_process.Result:
    """As a user types it: nothing is forked."""
    command = [sys.executable, "-m", "skinkd.train", "-m", *overrides]
    with subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | environment,
    ) as process:
        try:
            out, err = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    return train_process.Result(process.returncode, out, err)


def runs(output: Path) -> dict[str, Path]:
    return {path.parent.name: path.parent for path in sorted(output.glob("*/config.yaml"))}


def group(folder: Path) -> str:
    return yaml.safe_load((folder / "config.yaml").read_text())["group"]


def sweep_folder(output: Path) -> Path:
    (folder,) = [path.parent for path in output.glob("sweeps/*/sweep.json")]
    return folder


def test_one_job_fails_and_the_other_finishes(tiny: list[str], finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "outputs"
    command = [*tiny, f"paths.output_dir={output}", "data.batch_size=999,16"]
    result = sweep(command, tmp_path / "here")
    assert result.code == 1
    assert "1 of 2 jobs finished" in result.out
    assert "\x1b" not in result.out + result.err
    says = "data.batch_size=999 is larger than the 81 training images; set data.batch_size to 81 or less"
    assert f"failed: batch_size=999 (exit code 2)\n  {says}\n" in result.out

    (folder,) = runs(output).values()
    # the folder and the numbers of the single command; Hydra leaves nothing in the working directory
    assert folder.name == finished.name
    assert (folder / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"stdout.txt", "stderr.txt"}
    place = sweep_folder(output)
    assert group(folder) == place.name  # which is W&B's group, as runs/test_tracking.py shows

    stored = json.loads((place / "sweep.json").read_text())
    assert stored["group"] == place.name and [one["name"] for one in stored["jobs"]][1] == folder.name
    assert {path.stem for path in (place / "logs").iterdir()} == {one["name"] for one in stored["jobs"]}
    assert f"run folder:\n{folder}" in (place / "logs" / f"{folder.name}.log").read_text()
    assert result.out.rstrip().endswith(f"python -m skinkd.compare {place}")


def kill_and_go_on(tiny: list[str], folder: Path, number: signal.Signals) -> None:
    """Stop a sweep of two jobs once the first has finished and the second has begun; give it again."""
    output = folder / "outputs"
    command = [*tiny, f"paths.output_dir={output}", "seed=0,1", "sweep.devices=1"]
    running = start(command, folder / "here")
    end = time.monotonic() + SECONDS
    while len(list(output.glob("sweeps/*/logs/*.log"))) < 2:
        assert running.process.is_alive() and time.monotonic() < end
        time.sleep(0.05)
    done = sorted(output.glob("*/metrics.json"))
    os.killpg(running.process.pid, number)
    stopped = running.result(SECONDS)
    if number == signal.SIGKILL:
        assert stopped.code == -signal.SIGKILL
    else:
        assert stopped.code == 128 + number, stopped.err
        assert "the same command goes on" in stopped.out
    before = {path: path.stat().st_mtime_ns for path in done}
    assert len(before) == 1

    again = sweep(command, folder / "here")
    assert again.code == 0, again.out + again.err
    assert "2 of 2 jobs finished" in again.out
    assert again.out.count("skipped, has finished already") == len(before)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    folders = runs(output)
    assert len(folders) == 2 and all((path / "metrics.json").exists() for path in folders.values())
    for name in folders:
        log = (sweep_folder(output) / "logs" / f"{name}.log").read_text()
        assert log.count("run folder:") == 1, log  # printed by a run that reaches its end
        if output / name / "metrics.json" in before:
            assert log.count("python -m skinkd.train") == 1
            assert len(re.findall(r"^epoch +\d/2", log, flags=re.MULTILINE)) == 2
    third = sweep(command, folder / "here")  # nothing to do
    assert third.code == 0 and third.out.count("skipped, has finished already") == 2


def test_a_killed_sweep_goes_on(tiny: list[str], tmp_path: Path) -> None:
    kill_and_go_on(tiny, tmp_path, signal.SIGKILL)


@pytest.mark.slow
def test_a_stopped_sweep_goes_on(tiny: list[str], tmp_path: Path) -> None:
    kill_and_go_on(tiny, tmp_path, signal.SIGTERM)


@pytest.mark.slow
def test_three_methods_by_two_seeds(tiny: list[str], finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "outputs"
    command = [*tiny, f"paths.output_dir={output}", "logger=wandb"]
    result = cold_sweep([*command, "method=supervised,tf_kd,tsskd", "seed=0,1"], tmp_path)
    assert result.code == 0, result.err
    assert "6 of 6 jobs finished" in result.out
    folders = runs(output)
    assert len(folders) == 6
    assert (folders[finished.name] / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()
    assert len({group(folder) for folder in folders.values()}) == 1
    files = [WandbFile(run) for folder in folders.values() for run in (folder / "wandb").glob("offline-run-*")]
    assert len({file.run.run_id for file in files}) == 6
    assert {file.run.run_group for file in files} == {group(next(iter(folders.values())))}
    pairs = {(file.config["method"]["name"], file.config["seed"]) for file in files}
    assert pairs == {(method, seed) for method in ("supervised", "tf_kd", "tsskd") for seed in (0, 1)}
    assert len({metrics_of(folder)["test/loss"] for folder in folders.values()}) == 6


@pytest.mark.slow
def test_students_share_their_teacher(tiny: list[str], tmp_path: Path) -> None:
    """Its run is a job of the sweep too: the supervised run of seed 0, of the same network."""
    output = tmp_path / "outputs"
    same = "method.teacher.run.backbone.name=test_resnet.r160_in1k"
    command = [*tiny, f"paths.output_dir={output}", "method=kd,at", "seed=0", "sweep.devices=2", same]
    result = cold_sweep(command, tmp_path)
    assert result.code == 0, result.out + result.err
    folders = runs(output)
    assert len(folders) == 3
    logs = [path.read_text() for path in (sweep_folder(output) / "logs").iterdir()]
    assert sum(log.count("training the teacher first") for log in logs) == 1
    assert not any("waiting for the teacher" in log for log in logs)  # no place was taken by a job that could only wait
    assert "training its teacher first" in result.out


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_the_four_methods_and_their_teachers(tiny: list[str], tmp_path: Path) -> None:
    """Each of the papers' methods with the networks of its own choice; SSD-KD's teacher has one of its own."""
    output = tmp_path / "outputs"
    plain = [text for text in tiny if not text.startswith(("backbone", "trainer.max_epochs"))]
    short = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "backbone.pretrained=false"]
    result = cold_sweep(
        [*plain, *short, "data.image_size=64", f"paths.output_dir={output}", "method=swskd,tsskd,ssdkd,mskd"], tmp_path
    )
    assert result.code == 0, result.out + result.err
    assert "4 of 4 jobs finished" in result.out
    folders = runs(output)
    students, teachers = ["mskd", "ssdkd", "swskd", "tsskd"], ["mskd_teacher", "ssdkd_projection", "supervised"]
    assert sorted(name.partition("-")[0] for name in folders) == sorted(students + teachers)
    assert all("test/accuracy" in metrics_of(folder) for folder in folders.values())
    logs = "".join(path.read_text() for path in (sweep_folder(output) / "logs").iterdir())
    for name, folder in folders.items():
        assert logs.splitlines().count(f"training in {folder}") == 1, name
        taught = name.partition("-")[0] in ("mskd", "ssdkd", "ssdkd_projection")
        assert ("teacher/test/accuracy" in metrics_of(folder)) == taught


@pytest.mark.slow
def test_jobs_of_two_processes_each(tiny: list[str], tmp_path: Path) -> None:
    """A second rank that ran the sweep's own command line would start the whole sweep again."""
    output = tmp_path / "outputs"
    command = [*tiny, f"paths.output_dir={output}", "strategy=ddp_cpu", "data.batch_size=8", "seed=0,1", "logger=wandb"]
    result = cold_sweep(command, tmp_path)
    assert result.code == 0, result.out + result.err
    assert "2 of 2 jobs finished" in result.out
    folders = runs(output)
    assert len(folders) == 2
    for folder in folders.values():
        assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
    assert not (tmp_path / "wandb").exists()


FAILS = """
import os, sys
if os.environ.get("LOCAL_RANK") == "1" and "seed=0" in sys.orig_argv:
    from skinkd.training.callbacks import EpochLine
    def fail(*_):
        raise RuntimeError("this rank fails")
    EpochLine.on_train_epoch_end = fail
"""


@pytest.mark.slow
def test_a_rank_that_raises_hangs_nobody(tiny: list[str], tmp_path: Path) -> None:
    """The second process of the first job raises while the first waits for it in a collective call."""
    output, site = tmp_path / "outputs", tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(FAILS)
    command = [*tiny, f"paths.output_dir={output}", "strategy=ddp_cpu", "data.batch_size=8", "seed=0,1"]
    result = cold_sweep(command, tmp_path, PYTHONPATH=str(site))
    assert result.code == 1, result.out + result.err
    assert "1 of 2 jobs finished" in result.out
    assert "failed: seed=0" in result.out and "RuntimeError: this rank fails" in result.out


def test_submitit_runs_the_same_jobs(tiny: list[str], finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "outputs"
    local = ["-m", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=9"]
    (tmp_path / "here").mkdir()
    words = [*tiny, f"paths.output_dir={output}", *local]
    result = train_process.run(words, folder=tmp_path / "here", fork_children=True)  # submitit's processes too
    assert result.code == 0, result.out + result.err
    (folder,) = runs(output).values()
    assert folder.name == finished.name
    assert (folder / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()
    assert group(folder) == sweep_folder(output).name
    assert f"run folder:\n{folder}" in (sweep_folder(output) / "logs" / f"{folder.name}.log").read_text()
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"stdout.txt", "stderr.txt"}


def refusal(result: train_process.Result, output: Path) -> str:
    """The sentence that a sweep was refused with, before it left anything."""
    assert result.code == 2 and "Traceback" not in result.err, result.err
    assert not list(output.glob("sweeps/*/logs")) and not runs(output)
    sentence = result.err.splitlines()[-1]
    assert sentence.startswith("error: ")
    return sentence


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("optim=range(1,3)",), "optim=1 is not a choice"),
        (("sweep.devices=none",), "sweep.devices=none is not a valid value"),
        (("sweep.devices=[7]",), "sweep.devices=[7] names GPU 7"),
        (("sweep.devices=0,1",), "sweep.devices=0,1 runs each job once for each value; write 'sweep.devices=[0,1]'"),
        (("run_dir=here", "seed=0,1"), "run_dir=here would be the run folder of two jobs, 'seed=0' and 'seed=1'"),
        (("hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu"), "submit on a machine that has sbatch"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_starts(
    job: Callable[..., train_process.Result], tmp_path: Path, overrides: tuple[str, ...], said: str
) -> None:
    assert said in refusal(job(*overrides, "-m"), tmp_path / "outputs")


def hide_submitit() -> None:
    sys.modules["submitit"] = None  # type: ignore[assignment]  # so that importing it fails


def test_without_submitit_one_sentence_says_what_to_install(
    job: Callable[..., train_process.Result], tmp_path: Path
) -> None:
    hide = train_process.Act("skinkd.jobs.sweep:distinct", 1, hide_submitit)
    said = refusal(job("hydra/launcher=submitit_slurm", "-m", act=hide), tmp_path / "outputs")
    assert "pip install 'skinkd[submitit]'" in said


def test_other_verbs_have_no_sweeps(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seeds2 is not a choice"):
        check_overrides("train", ["sweep=seeds2"])
    result = train_process.run(["-m", "run=a,b"], folder=tmp_path, module="skinkd.evaluate")
    assert result.code == 2
    assert result.err.startswith("error: python -m skinkd.evaluate has no -m")
