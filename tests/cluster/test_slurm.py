"""Runs and sweeps on a real SLURM: two nodes, preemption, a limit of time, cancelled jobs, and runs of two tasks."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from real_slurm import Slurm, until
from train_process import metrics_of, only_run

from skinkd.config.resolve import read_config
from skinkd.runs.history import read_history

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


def epochs(output: Path) -> int:
    """The complete epochs of the only run of an output folder; 0 before its folder is there."""
    folders = list(output.glob("*/config.yaml"))
    return len(read_history(folders[0].parent).rows) if folders else 0


def text(folder: Path) -> str:
    return (folder / "sweep.txt").read_text()


def log(output: Path) -> str:
    """The output of the only job of a sweep; empty before it begins."""
    return "".join(file.read_text() for file in output.glob("sweeps/*/logs/*.log"))


def train(overrides: list[str], output: Path) -> list[str]:
    return [sys.executable, "-m", "skinkd.train", *overrides, f"paths.output_dir={output}"]


def test_two_jobs_on_two_nodes(slurm: Slurm, tiny: list[str], finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "outputs"
    before = set(slurm.jobs())
    sweep = slurm.sweep([*tiny, f"paths.output_dir={output}", "seed=0,1"], tmp_path)
    assert sweep.wait(900) == 0, text(tmp_path)
    assert "2 of 2 jobs finished" in text(tmp_path)
    until(lambda: not slurm.run("squeue", "--noheader").stdout, "the end of the jobs, which comes after their results")
    jobs = [job for number, job in slurm.jobs().items() if number not in before]
    assert [job["JobState"] for job in jobs] == ["COMPLETED", "COMPLETED"]
    assert {job["NodeList"] for job in jobs} == {"n1", "n2"}
    assert (output / finished.name / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()


def test_a_preempted_job_is_continued_and_finishes(
    slurm: Slurm, tiny: list[str], train_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    output = tmp_path / "outputs"
    overrides = [*tiny, f"paths.output_dir={output}", "trainer.max_epochs=40", "seed=0"]
    sweep = slurm.sweep(overrides, tmp_path)
    until(lambda: epochs(output) >= 1, "the first epoch")
    assert (
        slurm.run("sbatch", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2").returncode == 0
    )
    assert sweep.wait(900) == 0, text(tmp_path) + log(output)
    assert "1 of 1 jobs finished" in text(tmp_path)
    assert log(output).count("going on in") == 1, log(output)
    (job,) = slurm.jobs(only_run(output).name).values()
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1")
    folder = train_tiny(tmp_path / "at-once", "trainer.max_epochs=40", "seed=0")
    assert (only_run(output) / "metrics.json").read_bytes() == (folder / "metrics.json").read_bytes()


def test_a_job_out_of_time_is_queued_again_and_finishes(slurm: Slurm, tiny: list[str], tmp_path: Path) -> None:
    """Two minutes are the least that leave time before SLURM's signal, which may come a minute early.

    There are as many epochs as take two minutes on this machine, at its present load.
    """
    output, pace = tmp_path / "outputs", tmp_path / "pace"
    result = slurm.run("srun", *train([*tiny, "trainer.max_epochs=20", "evaluation.test=false"], pace), folder=tmp_path)
    assert result.returncode == 0, result.stderr
    epochs_in_all = round(120 / pd.read_csv(only_run(pace) / "history.csv")["seconds"].mean())
    limits = ["hydra.launcher.timeout_min=2", "hydra.launcher.max_num_timeout=20", "+hydra.launcher.signal_delay_s=20"]
    length = f"trainer.max_epochs={epochs_in_all}"
    sweep = slurm.sweep([*tiny, *limits, f"paths.output_dir={output}", length, "seed=0"], tmp_path)
    until(lambda: sweep.poll() is not None or "going on in" in log(output), "the second start")
    (job,) = slurm.jobs(only_run(output).name).values()
    assert int(job["Restarts"]) >= 1 and sweep.poll() is None
    assert sweep.wait(900) == 0, text(tmp_path) + log(output)
    assert metrics_of(only_run(output))["epochs"] == epochs_in_all


def test_a_job_that_is_cancelled_from_outside_is_noticed(slurm: Slurm, tiny: list[str], tmp_path: Path) -> None:
    """This cluster has no accounting, so ``sacct`` knows nothing."""
    output = tmp_path / "outputs"
    sweep = slurm.sweep([*tiny, f"paths.output_dir={output}", "trainer.max_epochs=2000", "seed=4"], tmp_path)
    until(lambda: epochs(output) >= 1, "the first epoch")
    (number,) = slurm.jobs(only_run(output).name)
    assert slurm.run("scancel", number).returncode == 0
    assert sweep.wait(180) == 1
    assert f"job {number} of the cluster: SLURM ended the job; its state is CANCELLED" in text(tmp_path)
    assert (only_run(output) / "checkpoints" / "last.ckpt").exists()


def test_a_stopped_sweep_cancels_its_jobs(slurm: Slurm, tiny: list[str], tmp_path: Path) -> None:
    output = tmp_path / "outputs"
    sweep = slurm.sweep([*tiny, f"paths.output_dir={output}", "trainer.max_epochs=2000", "seed=5"], tmp_path)
    until(lambda: epochs(output) >= 1, "the first epoch")
    sweep.send_signal(signal.SIGTERM)
    assert sweep.wait(180) == 143
    (job,) = slurm.jobs(only_run(output).name).values()
    assert job["JobState"] == "CANCELLED"
    assert "goes on from the last checkpoint" in text(tmp_path)


def test_two_tasks_of_srun_are_one_run(slurm: Slurm, tiny: list[str], tmp_path: Path) -> None:
    overrides = [*tiny, "strategy=ddp_cpu", "data.batch_size=8"]
    result = slurm.run("srun", "--ntasks-per-node=2", *train(overrides, tmp_path / "outputs"), folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("training in") == 1 and result.stdout.count("run folder:") == 1
    folder = only_run(tmp_path / "outputs")
    assert pd.read_csv(folder / "history.csv")["epoch"].tolist() == [1, 2]
    assert pd.read_csv(folder / "predictions" / "test.csv")["image_id"].is_unique


def test_srun_that_leaves_the_tasks_of_a_node_open_is_refused(slurm: Slurm, tiny: list[str], tmp_path: Path) -> None:
    result = slurm.run("srun", "-n", "2", *train([*tiny, "strategy=ddp_cpu"], tmp_path / "outputs"), folder=tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    assert "give srun or sbatch --ntasks-per-node=<processes of a node>" in result.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_strange_checkpoint_in_the_current_folder_is_not_loaded(
    slurm: Slurm, tiny: list[str], finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes((finished / "checkpoints" / "last.ckpt").read_bytes())
    result = slurm.run("srun", *train([*tiny, "seed=7"], tmp_path / "outputs"), folder=tmp_path)
    assert result.returncode == 0, result.stderr
    history = pd.read_csv(only_run(tmp_path / "outputs") / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    assert [path.name for path in tmp_path.glob("hpc*")] == ["hpc_ckpt_1.ckpt"]


def template(line: str, changes: dict[str, str], command: list[str], output: Path) -> str:
    """The job script of docs/cluster.md that has this line, for this cluster, which has no GPUs, and for a small run."""
    (text,) = [block for block in PAGE.read_text().split("```sh\n") if f"\n{line}" in block]
    lines = [one for one in text.split("```")[0].splitlines() if "gpus-per-node" not in one and "--mem" not in one]
    text = (
        "\n".join(lines).replace("--cpus-per-task=8", "--cpus-per-task=2").replace("python -m", f"{sys.executable} -m")
    )
    small = [word for word in command if not word.startswith("logger=")]
    for old, new in (changes | {"data=ham10000": " ".join([*small, f"paths.output_dir={output}"])}).items():
        assert old in text, old
        text = text.replace(old, new)
    return text + "\n"


def test_the_array_of_the_page_trains_its_runs(slurm: Slurm, tiny: list[str], tmp_path: Path) -> None:
    script = template("#SBATCH --array", {"--array=0-5": "--array=0-1"}, tiny, tmp_path / "outputs")
    (tmp_path / "array.sh").write_text(script)
    result = slurm.run("sbatch", "--wait", "array.sh", folder=tmp_path)
    said = "".join(file.read_text() for file in sorted(tmp_path.glob("*.txt")))
    assert result.returncode == 0, result.stderr + said
    assert len(list(tmp_path.glob("skinkd-sweep-*_[01].txt"))) == 2
    runs = sorted((tmp_path / "outputs").glob("*/metrics.json"))
    assert [run.parent.name.split("-")[0] for run in runs] == ["swskd", "tsskd"]
    assert {read_config(run.parent / "config.yaml")["group"] for run in runs} == {"my-sweep"}


def test_the_job_of_two_nodes_of_the_page_is_one_run(slurm: Slurm, tiny: list[str], tmp_path: Path) -> None:
    changes = {
        "--ntasks-per-node=4": "--ntasks-per-node=1",
        "strategy=ddp trainer.devices=4": "strategy=ddp_cpu trainer.devices=1",
    }
    words = [*(word for word in tiny if not word.startswith("data.batch_size")), "data.batch_size=8"]
    (tmp_path / "nodes.sh").write_text(template("#SBATCH --nodes=2", changes, words, tmp_path / "outputs"))
    result = slurm.run("sbatch", "--wait", "nodes.sh", folder=tmp_path)
    said = "".join(file.read_text() for file in tmp_path.glob("*.txt"))
    assert result.returncode == 0, result.stderr + said
    assert said.count("training in") == 1 and said.count("run folder:") == 1
    folder = only_run(tmp_path / "outputs")
    assert {job["NodeList"] for job in slurm.jobs("skinkd").values() if job["NumNodes"] == "2"} == {"n[1-2]"}
    assert pd.read_csv(folder / "history.csv")["epoch"].tolist() == [1, 2]
    assert pd.read_csv(folder / "predictions" / "test.csv")["image_id"].is_unique
