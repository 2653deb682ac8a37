"""The study of fine-tuned networks (docs/study.md) on one machine: tune on validation, choose, train all folds, pack.

::

    python benchmarks/gpu_study.py tune --seconds 170 --out $OUT     # tables of trials: $OUT/tune/<row>.csv
    python benchmarks/gpu_study.py choose $OUT/tune                  # chosen settings: conf/experiment/lite_study_<row>.yaml
    python benchmarks/gpu_study.py folds --seconds 380 --out $OUT    # finished runs: $OUT/folds.tar.xz
    python benchmarks/gpu_study.py pack                              # finished runs: benchmarks/study_runs.tar.xz
    python benchmarks/gpu_study.py unpack $FOLDER                    # run folders of benchmarks/study_runs.tar.xz

Runs are those of ``python -m skinkd.train experiment=lite_study_<row>``, with the same folders; here they begin in processes
that are forked from this one, which saves each of them the imports. Given again, the same command goes on. Trials are those
of ``python -m skinkd.tune`` with ``tune.sampler.name=random tune.pruner.name=none``.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: many processes share the cores
# looks for GPUs without a start of CUDA, which no fork survives
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import torch
import yaml
from hydra import compose, initialize_config_module

from skinkd.build.objects import build_data
from skinkd.build.tables import load_split
from skinkd.config.command_line import CONF
from skinkd.config.identity import run_path
from skinkd.config.resolve import resolved
from skinkd.data.audit import audit_split
from skinkd.data.splits import measure_leak
from skinkd.runs.history import read_history
from skinkd.search.plan import plan_search
from skinkd.search.study import Search, next_trial
from study_archive import pack, unpack
from study_choice import best_trial, equal_trials, settings_of, trials_page
from study_jobs import BEGAN, FORK, Job, in_processes, run_jobs
from study_rows import ROWS, SEARCHED, write_experiments

ROOT = Path(__file__).parent.parent
TRIALS_PAGE = ROOT / "docs" / "study_trials.md"
ARCHIVE = ROOT / "benchmarks" / "study_runs.tar.xz"
NO_FORK = 3  # exit code of the process that tries
TRIAL = ("data.fold=0", "trainer.max_epochs=2")
DRY = (
    *("strategy=cpu", "data=synthetic", "data.image_size=64", "data.cache_size=64"),
    *("data.batch_size=16", "data.num_workers=0", "trainer.max_epochs=1", "trainer.limit_train_batches=2"),
    *("data.table.images=300", "channels_last=false"),
)
"""Overrides of the dry run: everything is done, in small."""

# ---------------------------------------------------------------- rows as jobs


def composed(overrides: Sequence[str], config_name: str = "train") -> Any:
    """The configuration that ``python -m skinkd.<config_name>`` would have."""
    with initialize_config_module(version_base="1.3", config_module=CONF):
        return compose(config_name, overrides=list(overrides))


def make_job(name: str, fold: int, seed: int, made: dict[str, Job], extra: Sequence[str], *, test: bool) -> Job:
    """The run of a row on a fold with a seed; its teachers' jobs are made first where ``made`` has none, by row."""
    if name in made:
        return made[name]
    row = ROWS[name]
    overrides = [f"experiment=lite_study_{name}", f"data.fold={fold}", f"seed={seed}"]
    overrides += [f"data.num_workers={row.workers}", "trainer.enable_progress_bar=false", "logger=none", *extra]
    needs = []
    if row.teacher:
        needs = [make_job(row.teacher, fold, seed, made, extra, test=test)]
        overrides.append(f"method.teacher.ckpt={needs[0].folder}")
    if not test:
        overrides.append("evaluation.test=false")
    folder = run_path(resolved(composed(overrides)))
    made[name] = Job(f"{name} fold {fold} seed {seed}", overrides, folder, test, 1 + row.workers, needs)
    return made[name]


def make_block(rows: Sequence[str], fold: int, seed: int, extra: Sequence[str], test: bool) -> list[Job]:
    """The jobs of rows on a fold with a seed, and of their teachers."""
    made: dict[str, Job] = {}
    for name in rows:
        make_job(name, fold, seed, made, extra, test=test)
    return list(made.values())


# ---------------------------------------------------------------- before the runs


def warm(extra: Sequence[str]) -> None:
    """Make the cache of decoded images and the hashes, which all runs share."""
    config = resolved(composed(["experiment=lite_study_supervised", "logger=none", *extra]))
    table, parts = load_split(config)
    build_data(config, table, parts)
    bits, memory = config["data"]["near_duplicate_bits"], Path(config["paths"]["cache_dir"])
    audit_split(table, parts, measure_leak(table.frame, parts), near_duplicate_bits=bits, memory=memory)


def prepare(extra: Sequence[str]) -> None:
    """Do :func:`warm` in a forked process, so that this one starts no threads, which a fork would lose.

    It tries the GPU too: where a forked process cannot use it, runs begin as new processes, seconds later each.
    """
    process = FORK.Process(target=_prepared, args=(extra,))
    process.start()
    process.join()
    if process.exitcode == NO_FORK:
        os.environ["SKINKD_STUDY_NO_FORK"] = "1"
        print("a forked process cannot use the GPU here: each run imports everything itself", flush=True)
    elif process.exitcode:
        raise SystemExit("the images could not be prepared, as said above")


def _prepared(extra: Sequence[str]) -> None:
    warm(extra)
    if torch.cuda.is_available():
        try:
            torch.zeros(1, device="cuda")
        except RuntimeError as error:
            print(error)
            sys.exit(NO_FORK)


# ---------------------------------------------------------------- tuning


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


def run_tuning(options: argparse.Namespace, until: float, output: Path) -> None:
    """Run the same number of trials of every row, trial by trial over the rows, and write a table for each row."""
    extra = list(DRY) if options.cpu else []
    rows = options.rows or SEARCHED
    with_teacher = [teacher for name in rows if (teacher := ROWS[name].teacher)]
    teachers = make_block(with_teacher, 0, 0, extra, False)
    of_row = {name: job for name in with_teacher for job in teachers if job.label == f"{name} fold 0 seed 0"}
    needs = {name: [of_row[teacher]] if (teacher := ROWS[name].teacher) else [] for name in rows}
    wanted = [(name, needs[name][0].folder if needs[name] else None, extra, options.trials) for name in rows]
    trials: dict[str, Trials] = dict(zip(rows, in_processes(make_trials, wanted), strict=True))
    for name in rows:
        for job in trials[name].jobs:
            job.needs = needs[name]
    print(
        f"{len(rows)} rows, up to {options.trials} trials each, on {options.cores} cores",
        flush=True,
    )
    in_turn = [trials[name].jobs[number] for number in range(options.trials) for name in rows]
    run_jobs([*teachers, *in_turn], cores=options.cores, until=until, logs=output / "tune" / "logs")
    folder = options.out / "tune"
    folder.mkdir(parents=True, exist_ok=True)
    for name in rows:
        table = trial_table(trials[name])
        table.to_csv(folder / f"{name}.csv", index=False)
        done = table[table["state"] == "complete"]
        best = f", best {done['value'].max():.4f}" if len(done) else ""
        print(f"{name}: {len(done)} of {len(table)} trials complete{best}", flush=True)


# ---------------------------------------------------------------- choosing


def run_choosing(options: argparse.Namespace) -> None:
    """Write the chosen settings as experiment files, and the page of all trials."""
    tables = {name: pd.read_csv(options.folder / f"{name}.csv") for name in SEARCHED}
    budget = equal_trials(tables)
    chosen = {name: settings_of(table, best_trial(table, budget)) for name, table in tables.items()}
    write_experiments(chosen, f"Its settings are the best of {budget} trials on validation (docs/study_trials.md).")
    TRIALS_PAGE.write_text(trials_page(tables, budget), encoding="utf-8")
    print(f"{budget} trials of each row\n{yaml.safe_dump(chosen, sort_keys=False)}")


# ---------------------------------------------------------------- folds


def run_folds(options: argparse.Namespace, until: float, output: Path) -> None:
    """Train all rows on every fold, block by block of one seed and fold, and pack what has finished."""
    extra = list(DRY) if options.cpu else []
    rows = options.rows or list(ROWS)
    blocks = [(rows, fold, seed, extra, True) for seed in options.seeds for fold in options.folds]
    jobs = [job for block in in_processes(make_block, blocks) for job in block]
    print(f"{len(jobs)} runs, on {options.cores} cores", flush=True)
    run_jobs(jobs, cores=options.cores, until=until, logs=output / "folds-logs")
    options.out.mkdir(parents=True, exist_ok=True)
    # fast, since the time is nearly over
    pack([job.folder for job in jobs if job.finished], options.out / "folds.tar.xz", preset=1)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("tune", "folds"):
        one = verbs.add_parser(verb)
        one.add_argument("--seconds", type=float, required=True, help="the whole command ends within these")
        one.add_argument("--out", type=Path, required=True, help="folder of the results to bring home")
        one.add_argument(
            "--cores", type=int, default=(os.cpu_count() or 1) * 3 // 2, help="that runs keep busy together"
        )
        one.add_argument("--rows", nargs="*", choices=ROWS, help="all, if not given")
        one.add_argument("--cpu", action="store_true", help="a dry run on drawn images, tiny")
    verbs.choices["tune"].add_argument("--trials", type=int, default=12, help="of each row, at most")
    verbs.choices["folds"].add_argument("--folds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    verbs.choices["folds"].add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    verbs.add_parser("choose").add_argument("folder", type=Path, help="of the rows' tables of trials")
    verbs.add_parser("defaults", help="write the experiment files without chosen settings")
    verbs.add_parser("pack", help="replace the committed archive by the finished runs under SKINKD_OUTPUT_DIR")
    verbs.add_parser("unpack", help="restore the run folders of the committed archive").add_argument(
        "folder", type=Path
    )
    options = parser.parse_args()
    output = Path(os.environ.get("SKINKD_OUTPUT_DIR", "outputs"))
    if options.verb == "choose":
        run_choosing(options)
    elif options.verb == "defaults":
        write_experiments({}, "Its settings are not yet chosen.")
    elif options.verb == "pack":
        finished = sorted(file.parent for file in output.glob("*/metrics.json"))
        if not finished:
            raise SystemExit(f"no finished runs in {output}: {ARCHIVE.name} stays as it is")
        pack(finished, ARCHIVE, preset=6)
    elif options.verb == "unpack":
        print(f"{len(unpack(ARCHIVE, options.folder))} runs in {options.folder}")
    else:
        os.environ.setdefault("SKINKD_WEIGHTS", str(ROOT.parent / "shared" / "weights"))
        prepare(DRY if options.cpu else ())
        print(f"prepared after {time.monotonic() - BEGAN:.0f} s", flush=True)
        if options.verb == "tune":
            run_tuning(options, BEGAN + options.seconds - 10, output)
        else:
            run_folds(options, BEGAN + options.seconds - 30, output)


if __name__ == "__main__":
    main()
