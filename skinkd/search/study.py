"""An Optuna study whose trials are runs of ``python -m skinkd.train``, one after another.

The study's SQLite file and the run folders hold the whole state. So a killed search goes on where it was: it resumes the
running trial, and the later trials are the same as without the interruption. For that, each draw is seeded by the study's
seed and the trial's number, and pruning looks at every epoch in order.
"""

import math
import shlex
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState
from rich.console import Console

from skinkd.config.targets import allowed_words
from skinkd.errors import UserError
from skinkd.jobs.failures import last_error
from skinkd.jobs.processes import LocalProcesses
from skinkd.runs.files import Lock
from skinkd.runs.folder import RunFolder
from skinkd.runs.history import read_history
from skinkd.search.trial import follow
from skinkd.search.view import plot_search, print_end, trial_line

STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
_ENOUGH = 10  # least number of complete trials for importances


@dataclass(frozen=True)
class Search:
    """The plan of a search: its study, and how parameters become runs.

    Attributes:
        name: name of the study.
        folder: the study's folder, with study.db, trials.csv, best.yaml, history.png and logs.
        parts: what the search depends on, by name; a study does not go on with other parts.
        space: setting -> distribution.
        metric, mode: column of history.csv, and whether its "min" or "max" is best.
        epochs: epochs of a complete trial.
        seed: seed of the sampler.
        options: ``tune`` of the configuration.
        overrides: parameters -> overrides of ``skinkd.train`` for this run.
        extra: further overrides, the same for each trial.
        flags: of every command of a trial, before its overrides.
        run_folder: parameters -> the trial's run folder.
    """

    name: str
    folder: Path
    parts: dict[str, Any]
    space: dict[str, BaseDistribution]
    metric: str
    mode: str
    epochs: int
    seed: int
    options: dict[str, Any]
    overrides: Callable[[dict[str, Any]], list[str]]
    extra: list[str]
    flags: list[str]
    run_folder: Callable[[dict[str, Any]], Path]


def search(plan: Search) -> None:
    """Run trials until the study has ``tune.trials``; end the process with code 1 if no trial is complete."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = Console(highlight=False)
    total = plan.options["trials"]
    with _held(plan), _ended_by_sigterm(), LocalProcesses() as processes:
        study = _open(plan)
        done = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
        console.print(
            f"{'maximise' if plan.mode == 'max' else 'minimise'} {plan.metric} over {', '.join(plan.space)}: "
            f"{total} trials{f', of which {done} are done' if done else ''}\n{plan.folder}",
            soft_wrap=True,
            markup=False,
        )
        failures = 0
        try:
            while failures < plan.options["max_failures"] and (trial := next_trial(plan, study)) is not None:
                state = _run(plan, study, trial, processes, console)
                failures = failures + 1 if state == TrialState.FAIL else 0
                table = _write(plan, study)
                console.print(
                    trial_line(table, trial.number, total, plan.space, plan.mode), soft_wrap=True, markup=False
                )
        except (KeyboardInterrupt, SystemExit):
            console.print(f"stopped before the end; the same command goes on in {plan.folder}", soft_wrap=True)
            raise
        table = _write(plan, study)
    finished = bool((table["state"] == "complete").any())
    if failures >= plan.options["max_failures"]:
        console.print(
            f"stopped: the last {failures} trials failed; their logs are in {plan.folder / 'logs'}", soft_wrap=True
        )
    if finished:
        best = study.best_trial
        print_end(
            table,
            plan.space,
            metric=plan.metric,
            mode=plan.mode,
            importances=_importances(study),
            command=_command(plan, best.params),
            folder=plan.folder,
            console=console,
        )
    if not finished:
        console.print("no trial was completed; fix the cause and give tune.study=<another name>", soft_wrap=True)
    if not finished or failures >= plan.options["max_failures"]:
        sys.exit(1)


@contextmanager
def _held(plan: Search) -> Iterator[None]:
    """Hold the study's lock, so that no two processes go on with the same trial."""
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        lock = Lock(plan.folder / ".lock")
        taken = lock.take()
    except OSError as error:
        raise UserError(
            f"{plan.folder} cannot be written ({error.strerror}); set paths.output_dir to a folder you own"
        ) from None
    if not taken:
        raise UserError(f"another process is searching in {plan.folder}; wait for it, or give tune.study another name")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does, so that the running trial's process is told to stop."""

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _open(plan: Search) -> optuna.Study:
    path = plan.folder / "study.db"
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{path.resolve()}",
            study_name=plan.name,
            direction="maximize" if plan.mode == "max" else "minimize",
            pruner=_pruner(plan),
            load_if_exists=True,
        )
    except Exception as error:
        # optuna and the database below it have no common error
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read as a study ({first}); give tune.study another name") from None
    begun = study.user_attrs.get("parts")
    if begun is None:
        study.set_user_attr("parts", plan.parts)
    elif changed := [name for name, value in plan.parts.items() if begun[name] != value]:
        raise UserError(
            f"the study {plan.name} in {plan.folder} was begun with another {' and another '.join(changed)}; give tune.study "
            "another name, or leave it out: the name then follows from the search"
        )
    return study


def _pruner(plan: Search) -> BasePruner:
    settings = plan.options["pruner"]
    if settings["name"] == "median":
        return MedianPruner(n_startup_trials=settings["startup_trials"], n_warmup_steps=settings["min_epochs"])
    if settings["name"] == "hyperband":
        return HyperbandPruner(
            min_resource=settings["min_epochs"],
            max_resource=max(plan.epochs, settings["min_epochs"]),
            reduction_factor=settings["reduction_factor"],
        )
    return NopPruner()


def _sampler(plan: Search, number: int, place: int) -> BaseSampler:
    seed = int(np.random.SeedSequence([plan.seed, number, place]).generate_state(1)[0])
    settings = plan.options["sampler"]
    if settings["name"] == "tpe":
        return TPESampler(n_startup_trials=settings["startup_trials"], seed=seed)
    return RandomSampler(seed=seed)


def next_trial(plan: Search, study: optuna.Study) -> Trial | None:
    """Return the next trial, with parameters: one that an earlier process left unfinished, else a new one; None at the end."""
    trials = study.get_trials(deepcopy=False)
    left = [trial for trial in trials if trial.state == TrialState.RUNNING]
    if not left and len(trials) >= plan.options["trials"]:
        return None
    number = left[0].number if left else len(trials)
    study.sampler = _sampler(plan, number, 0)
    trial = Trial(study, left[0]._trial_id) if left else study.ask()
    # this draws the parameters that depend on each other; each other parameter gets a separate seed below. So if a killed
    # process left a trial with half of its parameters, the other half is the same as without the interruption
    _ = trial.relative_params
    for place, (name, values) in enumerate(plan.space.items(), start=1):
        study.sampler = _sampler(plan, number, place)
        if isinstance(values, CategoricalDistribution):
            trial.suggest_categorical(name, values.choices)
        elif isinstance(values, IntDistribution):
            trial.suggest_int(name, values.low, values.high, step=values.step, log=values.log)
        elif isinstance(values, FloatDistribution):
            trial.suggest_float(name, values.low, values.high, step=values.step, log=values.log)
    return trial


def _run(plan: Search, study: optuna.Study, trial: Trial, processes: LocalProcesses, console: Console) -> TrialState:
    """Run a trial's process, report each epoch and the end to the study, and stop the process if the study prunes it."""
    run = plan.run_folder(trial.params)
    trial.set_user_attr("folder", str(run))
    log = plan.folder / "logs" / f"trial-{trial.number:03d}.log"
    command = [sys.executable, "-m", "skinkd.train", *plan.flags, *plan.overrides(trial.params), *plan.extra]
    told = study.trials[trial.number].last_step or 0

    def tell(epoch: int, value: float) -> bool:
        """Report an epoch unless an earlier process did, and return whether to prune the trial here."""
        if epoch > told:
            trial.report(value, epoch)
        # after the last epoch, pruning would save nothing
        return told <= epoch < plan.epochs and trial.should_prune()

    with console.status(f"trial {trial.number + 1}: starting") as status:

        def show(epoch: int, value: float) -> None:
            status.update(f"trial {trial.number + 1}: epoch {epoch} of {plan.epochs}, {plan.metric} {value:.4f}")

        pruned, code = follow(
            command,
            processes,
            run,
            log,
            metric=plan.metric,
            tell=tell,
            show=show,
            poll_seconds=plan.options["poll_seconds"],
            stop_seconds=plan.options["stop_seconds"],
        )
    history = read_history(run)
    told_epochs = study.trials[trial.number].last_step or 0
    trial.set_user_attr("seconds", round(sum(row["seconds"] for row in history.rows[:told_epochs]), 1))
    if pruned:
        return study.tell(trial, state=TrialState.PRUNED).state
    values = [value for value in history.values(plan.metric) if not math.isnan(value)]
    if code or not values:
        why = f"exit code {code}: {last_error(log, 0, code)}" if code else f"{plan.metric} is never a number"
        trial.set_user_attr("reason", why)
        return study.tell(trial, state=TrialState.FAIL).state
    return study.tell(trial, max(values) if plan.mode == "max" else min(values)).state


def _write(plan: Search, study: optuna.Study) -> pd.DataFrame:
    """Write trials.csv, best.yaml and history.png, and return the table of the trials that have ended."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    columns = ["number", "state", "value", "epochs", "seconds", *plan.space, "folder", "reason"]
    rows = [
        {
            "number": trial.number + 1,
            "state": STATES[trial.state],
            "value": trial.value,
            "epochs": trial.last_step or 0,
            "seconds": trial.user_attrs.get("seconds"),
            **trial.params,
            "folder": trial.user_attrs.get("folder"),
            "reason": trial.user_attrs.get("reason"),
        }
        for trial in trials
    ]
    table = pd.DataFrame(rows, columns=columns)
    folder = RunFolder(plan.folder)
    folder.write_csv("trials.csv", table)
    if (table["state"] == "complete").any():
        best = study.best_trial
        record = {
            "metric": plan.metric,
            "value": best.value,
            "trial": best.number + 1,
            "parameters": best.params,
            "folder": best.user_attrs["folder"],
            "command": _command(plan, best.params),
        }
        folder.write_text("best.yaml", yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=10_000))
        plot_search(table, plan.folder / "history.png", metric=plan.metric, mode=plan.mode)
    return table


def _command(plan: Search, parameters: dict[str, Any]) -> str:
    """Return the command of the run with these parameters, which also scores the test part."""
    return shlex.join(["python", "-m", "skinkd.train", *plan.flags, *allowed_words(), *plan.overrides(parameters)])


def _importances(study: optuna.Study) -> dict[str, float]:
    """Return the importance of each setting, shares of 1 (PED-ANOVA: Watanabe et al., IJCAI 2023); empty for few trials."""
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    if len(complete) < _ENOUGH or len({trial.value for trial in complete}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
