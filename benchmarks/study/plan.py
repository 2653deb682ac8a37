"""The study's runs as jobs, and its trials as a search of ``python -m skinkd.tune`` would make them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from hydra import compose, initialize_config_module

from skinkd.config.command_line import CONF
from skinkd.config.identity import run_path
from skinkd.config.resolve import resolved
from skinkd.runs.history import read_history
from skinkd.search.plan import plan_search
from skinkd.search.study import Search, next_trial

from .jobs import Job
from .rows import ROWS, command_line

TRIAL = ("data.fold=0", "trainer.max_epochs=2")
DRY = (
    *("strategy=cpu", "data=synthetic", "data.image_size=64", "data.cache_size=64"),
    *("data.batch_size=16", "data.num_workers=0", "trainer.max_epochs=1", "trainer.limit_train_batches=2"),
    *("data.table.images=300", "channels_last=false"),
)
"""Overrides of the dry run: everything is done, in small."""


def composed(overrides: Sequence[str], config_name: str = "train") -> Any:
    """The configuration that ``python -m skinkd.<config_name>`` would have."""
    with initialize_config_module(version_base="1.3", config_module=CONF):
        return compose(config_name, overrides=list(overrides))


def make_job(
    name: str,
    fold: int,
    seed: int,
    made: dict[str, Job],
    extra: Sequence[str],
    *,
    test: bool,
    regime: str = "fine_tuned",
    changes: Sequence[str] = (),
) -> Job:
    """The run of a row on a fold with a seed; its teachers' jobs are made first where ``made`` has none, by row.

    ``extra`` are overrides for the run and its teachers, ``changes`` for the run alone. Those of ``method.teacher`` are for
    rows that have a teacher.
    """
    if name in made:
        return made[name]
    row = ROWS[name]
    overrides = [*command_line(name, regime), f"data.fold={fold}", f"seed={seed}"]
    overrides += [
        f"data.num_workers={row.workers}",
        "trainer.enable_progress_bar=false",
        "logger=none",
        *(one for one in extra if row.teacher or not one.startswith("method.teacher.")),
        *changes,
    ]
    needs = []
    if row.teacher:
        needs = [make_job(row.teacher, fold, seed, made, extra, test=test, regime=regime)]
        overrides.append(f"method.teacher.ckpt={needs[0].folder}")
    if not test:
        overrides.append("evaluation.test=false")
    if changes:  # apart from the rows, so that an archive of the rows has none of them
        overrides += [
            "paths.output_dir=${oc.env:SKINKD_OUTPUT_DIR,outputs}/variants",
            "paths.cache_dir=${oc.env:SKINKD_OUTPUT_DIR,outputs}/cache",
        ]
    folder = run_path(resolved(composed(overrides)))
    made[name] = Job(f"{name} fold {fold} seed {seed}", overrides, folder, test, 1 + row.workers, needs)
    return made[name]


def make_block(
    rows: Sequence[str], fold: int, seed: int, extra: Sequence[str], test: bool, regime: str = "fine_tuned"
) -> list[Job]:
    """The jobs of rows on a fold with a seed, and of their teachers."""
    made: dict[str, Job] = {}
    for name in rows:
        make_job(name, fold, seed, made, extra, test=test, regime=regime)
    return list(made.values())


def plan_of(name: str, teacher: Path | None, extra: Sequence[str]) -> Search:
    """What ``python -m skinkd.tune`` with these settings would search."""
    row = ROWS[name]
    base = [f"experiment=lite_study_{name}", f"data.num_workers={row.workers}", "logger=none", *extra]
    base += ["trainer.enable_progress_bar=false", *([f"method.teacher.ckpt={teacher}"] if teacher else [])]
    given = [f"tune_space=lite_study_{name}", "tune.sampler.name=random", "tune.pruner.name=none"]
    return plan_search(composed([*base, *given], "tune"), base)


def draw(plan: Search, trials: int) -> list[dict[str, Any]]:
    """The settings of the first trials, which at random depend on the seed and the trial's number alone."""
    plan.options["trials"] = trials
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if plan.mode == "max" else "minimize")
    drawn = []
    while (trial := next_trial(plan, study)) is not None:
        drawn.append(trial.params)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return drawn


@dataclass
class Trials:
    """The first trials of a row.

    Attributes:
        jobs: a run for each.
        drawn: the searched settings of each.
        metric: what its value is, the best epoch's.
    """

    jobs: list[Job]
    drawn: list[dict[str, Any]]
    metric: str


def make_trials(name: str, teacher: Path | None, extra: Sequence[str], trials: int) -> Trials:
    """The first trials of a row, which do not wait for the teacher yet."""
    plan, cores = plan_of(name, teacher, [*TRIAL, *extra]), 1 + ROWS[name].workers
    if plan.mode != "max":
        raise ValueError(f"the highest {plan.metric} is not the best")
    drawn = draw(plan, trials)
    jobs = [
        Job(f"{name} trial {number}", [*plan.overrides(one), *plan.extra], plan.run_folder(one), False, cores)
        for number, one in enumerate(drawn, start=1)
    ]
    return Trials(jobs, drawn, plan.metric)


def trial_table(trials: Trials) -> pd.DataFrame:
    """A row a trial: number from 1, state, value of its best epoch, epochs, seconds, settings, name of its run folder."""
    rows = []
    for number, (job, parameters) in enumerate(zip(trials.jobs, trials.drawn, strict=True), start=1):
        history = read_history(job.folder)
        state = "complete" if job.finished else "failed" if job.failed else "unfinished"
        value = max(history.values(trials.metric)) if job.finished else None
        seconds = round(history.seconds, 1)
        rows.append([number, state, value, len(history.rows), seconds, *parameters.values(), job.folder.name])
    return pd.DataFrame(rows, columns=["number", "state", "value", "epochs", "seconds", *trials.drawn[0], "folder"])
