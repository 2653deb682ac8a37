"""The study of fine-tuned networks (docs/study.md) on one machine: tune on validation, choose, train all folds, pack.

::

    python benchmarks/gpu_study.py tune --seconds 170 --out $OUT     # tables of trials: $OUT/tune/<row>.csv
    python benchmarks/gpu_study.py choose $OUT/tune                  # chosen settings: conf/experiment/lite_study_<row>.yaml
    python benchmarks/gpu_study.py folds --seconds 380 --out $OUT    # finished runs: $OUT/folds.tar.xz
    python benchmarks/gpu_study.py pack runs.tar.xz                  # those under SKINKD_OUTPUT_DIR

Runs are those of ``python -m skinkd.train experiment=lite_study_<row>``, with the same folders; here they begin in processes
that are forked from this one, which saves each of them the imports. Given again, the same command goes on. Trials are those
of ``python -m skinkd.tune`` with ``tune.sampler.name=random tune.pruner.name=none``.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: many processes share the cores
os.environ.setdefault(
    "PYTORCH_NVML_BASED_CUDA_CHECK", "1"
)  # looks for GPUs without a start of CUDA, which no fork survives

import argparse
import io
import lzma
import multiprocessing
import signal
import sys
import tarfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import torch
import yaml
from hydra import compose, initialize_config_module

from skinkd import train
from skinkd.build.objects import build_data
from skinkd.build.tables import load_split
from skinkd.config import cli
from skinkd.config.identity import run_path
from skinkd.config.overrides import CONF
from skinkd.config.resolve import resolved
from skinkd.data.audit import audit_split
from skinkd.data.splits import measure_leak
from skinkd.runs.folder import RunFolder
from skinkd.runs.history import read_history
from skinkd.search.plan import plan_search
from skinkd.search.study import Search, _next

BEGAN = time.monotonic() - time.process_time()  # before the imports
ROOT = Path(__file__).parent.parent
EXPERIMENTS = ROOT / "conf" / "experiment"
TRIALS_PAGE = ROOT / "docs" / "study_trials.md"
PACKED = ("metrics.json", "config.yaml", "history.csv", "splits.csv", "environment.txt", "predictions/*.csv")
FORK = multiprocessing.get_context("fork")
NO_FORK = 3  # exit code of the process that tries
TRIAL = ("data.fold=0", "trainer.max_epochs=2")
DRY = (
    *("strategy=cpu", "data=synthetic", "data.image_size=64", "data.cache_size=64"),
    *("data.batch_size=16", "data.num_workers=0", "trainer.max_epochs=1", "trainer.limit_train_batches=2"),
    *("data.table.images=300", "channels_last=false"),
)
"""Overrides of the dry run: everything is done, in small."""

LITE0 = {
    "backbone": {
        "name": "tf_efficientnet_lite0",
        "weights": "${oc.env:SKINKD_WEIGHTS}/tf_efficientnet_lite0.safetensors",
    }
}
LITE2 = {
    "backbone": {
        "name": "tf_efficientnet_lite2",
        "weights": "${oc.env:SKINKD_WEIGHTS}/tf_efficientnet_lite2.safetensors",
    }
}
HYBRID = {
    "backbone": {
        "conv_branch": "tf_efficientnet_lite0",
        "conv_weights": "${oc.env:SKINKD_WEIGHTS}/tf_efficientnet_lite0.safetensors",
    }
}
HYBRID_TEACHER = {
    "backbone": {
        "conv_branch": "tf_efficientnet_lite2",
        "conv_weights": "${oc.env:SKINKD_WEIGHTS}/tf_efficientnet_lite2.safetensors",
        "small_vit": {"patch_size": 8},
    }
}


@dataclass(frozen=True)
class Row:
    """A row of the study.

    Attributes:
        method, backbone: choices of these groups.
        settings: what its experiment file says beside lite_study's.
        teacher: the row whose run of the same fold and seed teaches it.
        searched: whether its settings are tuned.
        workers: loading processes.
    """

    method: str
    backbone: str
    settings: dict[str, Any]
    teacher: str | None = None
    searched: bool = True
    workers: int = 1


ROWS = {
    "teacher": Row("supervised", "timm", LITE2, searched=False),
    "hybrid_teacher": Row("mskd_teacher", "mskd_teacher", HYBRID_TEACHER, searched=False),
    "teacher_head": Row(
        *("ssdkd_projection", "timm"),
        {**LITE2, "monitor": {"metric": "val/retrieval_loss", "mode": "min"}},
        teacher="teacher",
        searched=False,
        workers=3,
    ),
    "ssdkd": Row("ssdkd", "timm", LITE0, teacher="teacher_head", workers=3),
    "mskd": Row("mskd", "mskd_student", HYBRID, teacher="hybrid_teacher"),
    "tsskd": Row("tsskd", "timm", LITE0, workers=2),
    "swskd": Row("swskd", "timm", LITE0),
    "byot": Row("byot", "timm", LITE0),
    "kd": Row("kd", "timm", LITE0, teacher="teacher"),
    "hybrid_supervised": Row("supervised", "mskd_student", HYBRID),
    "supervised": Row("supervised", "timm", LITE0),
    "label_smoothing": Row("supervised", "timm", {**LITE0, "loss": {"label_smoothing": 0.1}}),
}
"""In the order in which a block of one fold and seed begins them: teachers, then those that take longest."""

SEARCHED = [name for name, row in ROWS.items() if row.searched]


# ---------------------------------------------------------------- the rows as experiment files


def experiment_text(name: str, chosen: dict[str, Any], comment: str) -> str:
    """The experiment file of a row.

    Args:
        name: of the row.
        chosen: settings by dotted name, and ``augment``, beside the row's own.
        comment: its first line.
    """
    row = ROWS[name]
    defaults: list[Any] = ["lite_study", {"override /method": row.method}, {"override /backbone": row.backbone}]
    if "augment" in chosen:
        defaults.append({"override /augment": chosen["augment"]})
    values: dict[str, Any] = {}
    given = {"backbone.pretrained": False, **dict(_flat(row.settings)), **chosen}
    if row.teacher:
        given["method.teacher.bf16"] = True  # as the students' own passes
    for key, value in given.items():
        if key != "augment":
            node = values
            *groups, last = key.split(".")
            for group in groups:
                node = node.setdefault(group, {})
            node[last] = value
    body = yaml.safe_dump({"defaults": defaults, **values}, sort_keys=False, width=1000, allow_unicode=True)
    return f"# @package _global_\n# {comment}\n{body}"


def _flat(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def write_experiments(chosen: dict[str, dict[str, Any]], comment: str) -> None:
    """Write the experiment file of every row, with the chosen settings of those that have some."""
    for name in ROWS:
        text = experiment_text(name, chosen.get(name, {}), f"The row {name} of docs/study.md. {comment}")
        (EXPERIMENTS / f"lite_study_{name}.yaml").write_text(text, encoding="utf-8")


# ---------------------------------------------------------------- runs in forked processes


@dataclass(eq=False)
class Job:
    """A run, the cores that it keeps busy, and the jobs that it waits for."""

    label: str
    overrides: list[str]
    folder: Path
    test: bool
    cores: int
    needs: list["Job"] = field(default_factory=list)
    process: Any = None
    failed: bool = False
    began: float = 0.0

    @property
    def log(self) -> str:
        """Name of the file of what it prints."""
        return f"{self.label.replace(' ', '_')}.log"

    @property
    def finished(self) -> bool:
        """Whether its run folder has all it is to have."""
        return RunFolder(self.folder).finished_with(test=self.test)


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


def in_processes(function: Any, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """What ``function`` returns for each of the arguments, made at the same time: composing takes a third of a second."""
    with FORK.Pool(min(len(arguments), os.cpu_count() or 1)) as pool:
        return pool.starmap(function, arguments)


def _child(overrides: list[str], log: Path) -> None:
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if "SKINKD_STUDY_NO_FORK" in os.environ:
        os.execv(sys.executable, [sys.executable, "-m", "skinkd.train", *overrides])
    sys.argv = ["skinkd.train", *overrides]
    code: Any = 0
    try:
        cli.main(train.train, "train")
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    sys.exit(code)


def run_jobs(jobs: Sequence[Job], *, cores: int, until: float, logs: Path) -> None:
    """Run jobs in their order, each when those it needs have finished, until the time is over; end what runs then.

    Args:
        jobs: with those they need.
        cores: how many the running jobs may count together.
        until: of ``time.monotonic()``.
        logs: folder of what each prints.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting = [job for job in jobs if not job.finished]
    running: list[Job] = []
    try:
        while (waiting or running) and time.monotonic() < until:
            for job in [job for job in running if not job.process.is_alive()]:
                running.remove(job)
                _told(job, logs)
            for job in list(waiting):
                if any(need.failed for need in job.needs):
                    job.failed = True
                    waiting.remove(job)
                elif all(need.finished for need in job.needs):
                    if running and sum(one.cores for one in running) + job.cores > cores:
                        break  # those behind it wait too, or the largest would come last
                    waiting.remove(job)
                    running.append(job)
                    job.began = time.monotonic()
                    job.process = FORK.Process(target=_child, args=(job.overrides, logs / job.log))
                    job.process.start()
            time.sleep(0.1)
    finally:
        _end(running)
    for job in running:
        print(f"stopped: {job.label}")
    if waiting:
        print(f"not begun: {len(waiting)} jobs, the first of them {waiting[0].label}", flush=True)


def _told(job: Job, logs: Path) -> None:
    job.failed = not job.finished
    now = time.monotonic()
    said = f"{now - BEGAN:5.0f} s  {job.label}: {'FAILED' if job.failed else 'finished'} after {now - job.began:.0f} s"
    print(said, flush=True)
    if job.failed:
        last = (logs / job.log).read_text(errors="replace").splitlines()[-5:]
        print(*(f"         {line}" for line in last), sep="\n", flush=True)


def _end(running: Sequence[Job]) -> None:
    """End the jobs' processes and all that these started: asked first, then killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for job in running:
            if job.process.is_alive():
                try:
                    os.killpg(job.process.pid, number)
                except ProcessLookupError:  # it has just begun and has no group of its own yet
                    job.process.kill()
        stop = time.monotonic() + 3
        while any(job.process.is_alive() for job in running) and time.monotonic() < stop:
            time.sleep(0.1)


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
    while (trial := _next(plan, study)) is not None:
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


def equal_trials(tables: dict[str, pd.DataFrame]) -> int:
    """How many of the first trials have ended, well or not, in every row: the budget that all rows have alike."""

    def ended(table: pd.DataFrame) -> int:
        over = table["state"].isin(["complete", "failed"]).to_numpy()
        return len(over) if over.all() else int(over.argmin())

    return min(ended(table) for table in tables.values())


def best_trial(table: pd.DataFrame, budget: int) -> pd.Series:
    """The trial of the highest value among the first ``budget``; of equal values, the earlier.

    Raises:
        SystemExit: none of them is complete.
    """
    complete = table[(table["number"] <= budget) & (table["state"] == "complete")]
    if complete.empty:
        raise SystemExit(f"none of the first {budget} trials of a row is complete: no settings can be chosen")
    return complete.sort_values(["value", "number"], ascending=[False, True], kind="stable").iloc[0]


def settings_of(table: pd.DataFrame, trial: pd.Series) -> dict[str, Any]:
    """The searched settings of a trial, numbers rounded to three significant digits."""
    names = [name for name in table.columns if name not in ("number", "state", "value", "epochs", "seconds", "folder")]
    plain = {name: trial[name].item() if hasattr(trial[name], "item") else trial[name] for name in names}
    return {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in plain.items()}


def trials_page(tables: dict[str, pd.DataFrame], budget: int) -> str:
    """docs/study_trials.md: every trial of every row."""
    parts = [
        "# The trials of the study of fine-tuned networks\n\nWritten by `python benchmarks/gpu_study.py choose`. The value is "
        f"the best epoch's balanced accuracy on fold 0's validation part; each row chooses among its first {budget} trials, as "
        "many as every row has. The test part was not scored."
    ]
    for name, table in tables.items():
        names = list(settings_of(table, table.iloc[0]))
        best = best_trial(table, budget)["number"]
        lines = ["| trial | " + " | ".join(f"`{one}`" for one in names) + " | state | value |"]
        lines.append("| ---: |" + " ---: |" * len(names) + " --- | ---: |")
        for _, trial in table[table["number"] <= budget].iterrows():
            cells = [f"{value}" for value in settings_of(table, trial).values()]
            value = f"{trial['value']:.4f}" if trial["state"] == "complete" else ""
            shown = f"**{value}**" if trial["number"] == best else value
            lines.append(f"| {trial['number']} | {' | '.join(cells)} | {trial['state']} | {shown} |")
        parts.append(f"## {name}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


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
    pack([job.folder for job in jobs if job.finished], options.out / "folds.tar.xz")


def pack(folders: Sequence[Path], target: Path) -> None:
    """Write what the tables need of finished runs to one file: no weights, no images, no pictures.

    A large dictionary, since the runs of a fold have the same splits and the same images.
    """
    began = time.monotonic()
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 1 << 26}]
    with lzma.open(target, "wb", filters=filters) as packed, tarfile.open(fileobj=packed, mode="w|") as tar:
        for folder in folders:
            for file in sorted(file for pattern in PACKED for file in folder.glob(pattern)):
                entry = tarfile.TarInfo(f"{folder.name}/{file.relative_to(folder)}")
                entry.size, entry.mtime = file.stat().st_size, int(file.stat().st_mtime)
                tar.addfile(entry, io.BytesIO(file.read_bytes()))
    size = target.stat().st_size / 2**20
    print(f"{target}: {len(folders)} runs, {size:.1f} MiB, in {time.monotonic() - began:.0f} s", flush=True)


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
    verbs.add_parser("pack").add_argument("target", type=Path)
    options = parser.parse_args()
    output = Path(os.environ.get("SKINKD_OUTPUT_DIR", "outputs"))
    if options.verb == "choose":
        run_choosing(options)
    elif options.verb == "defaults":
        write_experiments({}, "Its settings are not yet chosen.")
    elif options.verb == "pack":
        pack(sorted(file.parent for file in output.glob("*/metrics.json")), options.target)
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
