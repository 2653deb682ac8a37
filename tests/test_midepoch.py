"""Checkpoints in the middle of an epoch: a run that goes on from them ends with the bytes of a run that nothing stopped."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from test_resume import KILL, STEP, STEPS, check_same
from train_process import Act, Result, metrics_of, only_run

from skinkd.config.identity import identity
from skinkd.methods.base import Method
from skinkd.methods.terms import TermMeter
from skinkd.training.midepoch import random_states, set_random_states

Trained = Callable[..., Path]
Job = Callable[..., Result]

ALWAYS = "checkpoint.every_minutes=1e-9"  # after each step
AVERAGED = [
    *("backbone.drop_rate=0.2", "ema.decay=0.9", "augment.mix=mixup", "augment.mix_alpha=0.4", "loss.name=focal")
]
# together they have all that a checkpoint must hold: of each kind of network, optimiser, average, sampler and precision
WITH_STATE = [
    (AVERAGED, 0),
    (["method=tsskd", "backbone.drop_rate=0.2", "method.warmup_epochs=2", "sampler=balanced"], 2),
    (
        [
            *("method=swskd", "data.image_size=64", "backbone.drop_rate=0.2", "optim=sgd_plateau"),
            *("early_stopping.patience=3", "precision=bf16", "ema.decay=0.5"),
        ],
        0,
    ),
]


@pytest.fixture(scope="module")
def whole(train_tiny: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run that nothing stopped, trained once for each set of overrides; for reading only."""

    @cache
    def run(*overrides: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            for picture in ("plot_curves", "plot_confusion"):
                patch.setattr(f"skinkd.training.scores.{picture}", lambda *_, **__: None)
            return train_tiny(tmp_path_factory.mktemp("whole"), *overrides)

    return run


def last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize(("overrides", "workers"), WITH_STATE, ids=str)
def test_killed_inside_an_epoch_after_an_epoch_and_inside_the_next(
    trained: Trained, whole: Trained, job: Job, tmp_path: Path, overrides: list[str], workers: int
) -> None:
    """Each time the same command goes on; the loading processes of the killed one may still live."""
    again = [*overrides, f"data.num_workers={workers}"]
    # steps that are saved: inside the first epoch, at its end, and inside the second
    for saved, further, started in ((3, [ALWAYS], 4), (STEPS, [], 5), (STEPS + 2, [ALWAYS], 3)):
        killed = job(*again, *further, act=Act(STEP, started, KILL))
        assert killed.code == -signal.SIGKILL, killed.err
        folder = only_run(tmp_path / "outputs")
        assert last(folder)["global_step"] == saved
    assert len(pd.read_csv(folder / "history.csv")) == 1 and not (folder / "metrics.json").exists()

    steps: list[int] = []
    combine = Method.combine

    def noted(self: Method, **terms: Callable[[], torch.Tensor]) -> torch.Tensor:
        steps.append(self.trainer.global_step)
        return combine(self, **terms)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Method, "combine", noted)
        assert trained(*overrides) == folder
    assert steps == list(range(STEPS + 2, 2 * STEPS))  # it went on, it did not begin again
    check_same(folder, whole(*overrides))


def signal_all(number: int) -> None:
    """Send a signal to this process and its loading processes, from outside."""
    own = os.getpid()
    loading = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    assert len(loading) >= 2
    subprocess.run(["kill", f"-{number}", *loading, str(own)], check=True)


def test_a_run_that_is_asked_to_stop_saves_the_step_first(
    trained: Trained, job: Job, finished: Path, tmp_path: Path
) -> None:
    """The signal reaches the loading processes too, as from a terminal or SLURM."""
    for number, code, saved in ((signal.SIGTERM, 128 + signal.SIGTERM, 2), (signal.SIGINT, 1, 4)):
        stopped = job("data.num_workers=2", act=Act(STEP, 2, partial(signal_all, number)))
        assert stopped.code == code, stopped.err
        assert "the same command goes on from the last checkpoint" in stopped.out
        folder = only_run(tmp_path / "outputs")
        assert last(folder)["global_step"] == saved
    assert trained() == folder
    check_same(folder, finished)


def test_steps_that_gather_gradients_are_not_split(trained: Trained, job: Job, tmp_path: Path) -> None:
    """Two batches make an optimiser step; between them the gradients are in no checkpoint."""
    overrides = [ALWAYS, "trainer.accumulate_grad_batches=2", "trainer.max_epochs=1"]
    assert job(*overrides, act=Act(STEP, 4, KILL)).code == -signal.SIGKILL
    folder = only_run(tmp_path / "outputs")
    assert last(folder)["global_step"] == 1
    assert trained(*overrides) == folder
    check_same(folder, trained(*overrides, output=tmp_path / "whole"))


def test_the_average_is_scored_alike_by_another_process(trained: Trained, whole: Trained, tmp_path: Path) -> None:
    """The network's constants are in no checkpoint, so the average must leave them as they are, to the last digit."""
    scored = whole(*AVERAGED)
    folder = Path(shutil.copytree(scored, tmp_path / "outputs" / scored.name))
    shutil.rmtree(folder / "predictions")
    (folder / "metrics.json").unlink()
    assert trained(*AVERAGED) == folder
    check_same(folder, scored)


def test_killed_while_a_file_is_written(trained: Trained, job: Job, finished: Path, tmp_path: Path) -> None:
    """Between the content and the name: the half-made file is left, and the next process removes it."""
    for call in (5, 13):  # odd calls are of files, even ones of their folders
        killed = job(ALWAYS, act=Act("skinkd.runs.files:_wait_for_disk", call, KILL))
        assert killed.code == -signal.SIGKILL, killed.err
        folder = only_run(tmp_path / "outputs")
        assert list(folder.rglob(".*.tmp*"))
    assert trained() == folder
    check_same(folder, finished)


# the runs above that are killed save each step too, and end as runs that saved none
@pytest.mark.slow
def test_saving_changes_no_number_and_no_name(trained: Trained, finished: Path) -> None:
    folder = trained(ALWAYS)
    assert folder.name == finished.name
    check_same(folder, finished)


def test_a_moved_run_goes_on_and_keeps_its_best_epoch(job: Job, trained: Trained, tmp_path: Path) -> None:
    """The second epoch destroys the network, so the best epoch lies before the kill."""
    settings = [
        *("optim=adam_multistep", "optim.lr=1e-4", "optim.schedule.at=[0.5]", "optim.schedule.factor=1e5"),
        *("monitor.metric=val/loss", "monitor.mode=min"),
    ]
    assert job(*settings, act=Act(STEP, STEPS + 1, KILL)).code == -signal.SIGKILL
    before = only_run(tmp_path / "outputs")
    (tmp_path / "elsewhere").mkdir()
    before.rename(tmp_path / "elsewhere" / before.name)
    folder = trained(*settings, output=tmp_path / "elsewhere")
    check_same(folder, trained(*settings, output=tmp_path / "whole"))
    history, numbers = pd.read_csv(folder / "history.csv").set_index("epoch"), metrics_of(folder)
    assert numbers["best_epoch"] == history["val/loss"].idxmin() == 1
    assert numbers["val/loss"] == pytest.approx(history.loc[1, "val/loss"], rel=1e-6)
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == 0


def test_the_random_generators_go_on_where_they_were() -> None:
    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.rand(()))]

    draw()
    states = random_states(torch.device("cpu"))
    first = draw()
    assert draw() != first
    set_random_states(states, torch.device("cpu"))
    assert draw() == first


def test_the_sums_of_the_terms_go_on() -> None:
    values = torch.rand(7, generator=torch.Generator().manual_seed(0))
    whole, part = TermMeter(), TermMeter()
    for step, value in enumerate(values):
        whole.update({"ce": value, "kd": 3 * value}, step)
        part.update({"ce": value, "kd": 3 * value}, step)
        resumed = TermMeter()
        resumed.load_state_dict(part.state_dict(), torch.device("cpu"))
        part = resumed
    assert part.means() == whole.means()
    part.update({"ce": torch.tensor(float("nan")), "kd": torch.tensor(1.0)}, 7)
    resumed.load_state_dict(part.state_dict(), torch.device("cpu"))
    with pytest.raises(Exception, match="'ce' became NaN or infinite at training step 7"):
        resumed.check()


def test_the_setting_is_no_part_of_a_runs_name(finished: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    without = {name: value for name, value in config.items() if name != "checkpoint"}
    assert identity(config | {"checkpoint": {"every_minutes": 1}}) == identity(config) == identity(without)
    assert finished.name.endswith(identity(without))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_processes_stop_and_go_on_together(tiny: list[str], tmp_path: Path) -> None:
    """One of them is asked to stop, later one is killed. Each process has its own images, sums and generators."""
    program = str(Path(__file__).parent / "signal_at_step.py")
    overrides = [
        *(
            *tiny,
            "strategy=ddp_cpu",
            "data.batch_size=8",
            "method=swskd",
            "data.image_size=64",
            "backbone.drop_rate=0.2",
            "ema.decay=0.9",
        ),
        *(ALWAYS, "data.num_workers=1"),
    ]

    def run(output: str, step: int, number: int) -> int:
        command = [sys.executable, program, *overrides, f"paths.output_dir={tmp_path / output}"]
        env = os.environ | {"STEP": str(step), "SIGNAL": str(number), "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900, check=False)
        print(ended.stdout[-2000:], ended.stderr[-2000:])
        return ended.returncode

    assert run("whole", 999, signal.SIGTERM) == 0
    assert run("outputs", 2, signal.SIGTERM) == 128 + signal.SIGTERM
    folder = only_run(tmp_path / "outputs")
    assert last(folder)["global_step"] == 2
    assert run("outputs", 6, signal.SIGKILL) == -signal.SIGKILL
    assert last(folder)["global_step"] == 7
    assert len(last(folder)["processes"]) == 2
    assert run("outputs", 999, signal.SIGTERM) == 0
    check_same(folder, only_run(tmp_path / "whole"))
