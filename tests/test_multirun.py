"""Sweeps: each job is the single command, in a process of its own; one that fails stops no other."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jobs import metrics_of
from wandb_file import WandbFile

from hydra_plugins.skinkd_launcher.launcher import _group_name


def sweep(overrides: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "skinkd.train", "-m", *overrides]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)


def runs(output: Path) -> dict[str, Path]:
    return {path.parent.name: path.parent for path in sorted(output.glob("*/config.yaml"))}


def group(folder: Path) -> str:
    return yaml.safe_load((folder / "config.yaml").read_text())["group"]


def test_one_job_fails_and_the_other_finishes(tiny: list[str], finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "outputs"
    command = [*tiny, f"paths.output_dir={output}", "data.batch_size=999,16", "logger=wandb"]
    result = sweep(command, tmp_path)
    assert result.returncode == 1
    assert "1 of 2 jobs finished" in result.stdout
    assert "data.batch_size=999 is larger than" in result.stderr
    (failed,) = [line for line in result.stdout.splitlines() if line.startswith("failed with exit code 2: ")]
    assert "data.batch_size=999" in failed

    (folder,) = runs(output).values()
    # the folder and the numbers of the single command; Hydra leaves nothing in the working directory
    assert folder.name == finished.name
    assert (folder / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    (run,) = (folder / "wandb").glob("offline-run-*")
    name = group(folder)
    assert name.startswith("sweep-") and WandbFile(run).run.run_group == name

    # another process gives the same sweep the same name, and another sweep another
    lines = [line for line in result.stdout.splitlines() if line.startswith(("job 1 of 2: ", "job 2 of 2: "))]
    jobs = [line.split(": ", 1)[1].split() for line in lines]
    assert _group_name(jobs) == name != _group_name(jobs[:1])


@pytest.mark.slow
def test_three_methods_by_two_seeds(tiny: list[str], finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "outputs"
    command = [*tiny, f"paths.output_dir={output}", "logger=wandb"]
    result = sweep([*command, "method=supervised,swskd,tsskd", "seed=0,1"], tmp_path)
    assert result.returncode == 0, result.stderr
    assert "6 of 6 jobs finished" in result.stdout
    folders = runs(output)
    assert len(folders) == 6
    assert (folders[finished.name] / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()
    assert len({group(folder) for folder in folders.values()}) == 1
    files = [WandbFile(run) for folder in folders.values() for run in (folder / "wandb").glob("offline-run-*")]
    assert len({file.run.run_id for file in files}) == 6
    assert {file.run.run_group for file in files} == {group(next(iter(folders.values())))}
    pairs = {(file.config["method"]["name"], file.config["seed"]) for file in files}
    assert pairs == {(method, seed) for method in ("supervised", "swskd", "tsskd") for seed in (0, 1)}
    assert len({metrics_of(folder)["test/loss"] for folder in folders.values()}) == 6


@pytest.mark.slow
def test_jobs_of_two_processes_each(tiny: list[str], tmp_path: Path) -> None:
    """A second rank that ran the sweep's own command line would start the whole sweep again."""
    output = tmp_path / "outputs"
    command = [*tiny, f"paths.output_dir={output}", "strategy=ddp_cpu", "data.batch_size=8", "seed=0,1"]
    result = sweep(command, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("run folder:") == 2
    assert len(runs(output)) == 2
