"""The study of fine-tuned networks (docs/study.md) on one machine: tune on validation, choose, train all folds, report.

::

    python -m benchmarks.study tune --seconds 170 --out $OUT     # tables of trials: $OUT/tune/<row>.csv
    python -m benchmarks.study choose $OUT/tune                  # chosen settings: conf/experiment/lite_study_<row>.yaml
    python -m benchmarks.study folds --seconds 380 --out $OUT    # finished runs: $OUT/folds.tar.xz
    python -m benchmarks.study folds --regime scratch            # small networks from scratch
    python -m benchmarks.study ablations --seconds 380           # benchmarks/study/ablations.csv
    python -m benchmarks.study remedies --seconds 380            # benchmarks/study/remedies.csv
    python -m benchmarks.study pack                              # finished runs: benchmarks/study/runs*.tar.xz
    python -m benchmarks.study unpack $FOLDER                    # run folders of benchmarks/study/runs*.tar.xz
    python -m benchmarks.study subgroups                         # benchmarks/study/subgroups.csv
    python -m benchmarks.study corruptions --folds 3 --rows supervised swskd    # benchmarks/study/corruptions.csv
    python -m benchmarks.study report                            # docs/results.md, from the archive and both tables
    python -m benchmarks.study report --wandb                    # and the same runs, a report and a workspace in W&B

Runs are those of ``python -m skinkd.train experiment=lite_study_<row>``, with the same folders; here they begin in processes
that are forked from this one, which saves each of them the imports. Given again, the same command goes on. Trials are those
of ``python -m skinkd.tune`` with ``tune.sampler.name=random tune.pruner.name=none``.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: many processes share the cores
# looks for GPUs without a start of CUDA, which no fork survives
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
import yaml

from skinkd.analysis.runs import read_runs
from skinkd.build.objects import build_data
from skinkd.build.tables import load_split
from skinkd.config.resolve import resolved
from skinkd.config.user_errors import user_errors
from skinkd.data.audit import audit_split
from skinkd.data.splits import measure_leak

from . import corruptions, packing, published, subgroups, variants
from .archive import TESTED, pack, unpack
from .choice import best_trial, equal_trials, settings_of, trials_page
from .collect import ARCHIVES, HERE, TEACHERS, collect, stored_runs
from .jobs import BEGAN, FORK, in_processes, run_jobs
from .plan import DRY, Trials, composed, make_block, make_trials, trial_table
from .report import write_page
from .rows import REGIMES, ROWS, SEARCHED, command_line, write_experiments

ROOT = Path(__file__).parents[2]
TRIALS_PAGE = ROOT / "docs" / "study_trials.md"
NO_FORK = 3  # exit code of the process that tries

# ---------------------------------------------------------------- before the runs


def warm(regime: str, extra: Sequence[str]) -> None:
    """Make the cache of decoded images and the hashes, which all runs of a regime share."""
    config = resolved(composed([*command_line("supervised", regime), "logger=none", *extra]))
    table, parts = load_split(config)
    build_data(config, table, parts)
    bits, memory = config["data"]["near_duplicate_bits"], Path(config["paths"]["cache_dir"])
    audit_split(table, parts, measure_leak(table.frame, parts), near_duplicate_bits=bits, memory=memory)


def prepare(regime: str, extra: Sequence[str]) -> None:
    """Do :func:`warm` in a forked process, so that this one starts no threads, which a fork would lose.

    It tries the GPU too: where a forked process cannot use it, runs begin as new processes, seconds later each.
    """
    process = FORK.Process(target=_prepared, args=(regime, extra))
    process.start()
    process.join()
    if process.exitcode == NO_FORK:
        os.environ["SKINKD_STUDY_NO_FORK"] = "1"
        print("a forked process cannot use the GPU here: each run imports everything itself", flush=True)
    elif process.exitcode:
        raise SystemExit("the images could not be prepared, as said above")


def _prepared(regime: str, extra: Sequence[str]) -> None:
    with user_errors():
        warm(regime, extra)
    if torch.cuda.is_available():
        try:
            torch.zeros(1, device="cuda")
        except RuntimeError as error:
            print(error)
            sys.exit(NO_FORK)


# ---------------------------------------------------------------- tuning


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
    extra = list(DRY) if options.cpu else list(options.overrides)
    rows = options.rows or list(ROWS)
    blocks = [
        (group, fold, seed, extra, True, options.regime)
        for seed in options.seeds
        for group in in_turn(rows, seed)
        for fold in options.folds
    ]
    jobs = variants.with_teachers(job for block in in_processes(make_block, blocks) for job in block)
    print(f"{len(jobs)} runs, on {options.cores} cores", flush=True)
    run_jobs(jobs, cores=options.cores, until=until, logs=output / "folds-logs")
    options.out.mkdir(parents=True, exist_ok=True)
    # fast, since the time is nearly over
    pack([job.folder for job in jobs if job.finished], options.out / "folds.tar.xz", preset=1)


def in_turn(rows: Sequence[str], seed: int) -> list[list[str]]:
    """Which rows of a seed are trained on all folds before others.

    Folds of the first seed count one by one, so all its rows go together. A further seed of a row counts with all folds, so
    those without a teacher, which take less time, come first.
    """
    if seed == 0:
        return [list(rows)]
    alone = [name for name in rows if not ROWS[name].teacher and name not in TEACHERS]
    return [group for group in (alone, [name for name in rows if name not in alone]) if group]


# ---------------------------------------------------------------- ablations and remedies


def run_variants(options: argparse.Namespace, until: float, output: Path) -> None:
    """Train the ablations or the remedies; add the scores of finished runs to their table, and pack those of ablations."""
    test, extra = options.verb == "ablations", list(DRY) if options.cpu else list(options.overrides)
    every, regime = variants.SETS[options.regime][options.verb], options.regime
    seeds = options.seeds or [variants.SEEDS[regime]]
    chosen = [one for one in every if not options.rows or one.row in options.rows]
    places = [(fold, seed) for seed in seeds for fold in options.folds]
    made = in_processes(variants.make_variants, [(chosen, fold, seed, extra, test, regime) for fold, seed in places])
    jobs = variants.teachers_first(job for block in made for job in block.values())
    print(f"{len(jobs)} runs, on {options.cores} cores", flush=True)
    run_jobs(jobs, cores=options.cores, until=until, logs=output / f"{options.verb}-logs")
    lines = [
        variants.scores_of(variant, job, fold, seed, "test" if test else "val", regime)
        for (fold, seed), block in zip(places, made, strict=True)
        for variant, job in block.items()
        if job.finished
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"{options.verb}.csv" if options.cpu else variants.RESULTS[options.verb]
    if not lines:
        print("nothing has finished")
        return
    if test:  # fast, since the time is nearly over
        finished = [job.folder for block in made for job in block.values() if job.finished]
        pack(finished, options.out / "ablations.tar.xz", preset=1, patterns=TESTED)
    table = variants.stored(lines, file)
    print(variants.variant_table(table[table["regime"] == regime]))


# ---------------------------------------------------------------- what the report needs beside the archive


def run_subgroups() -> None:
    """Write the scores by sex, age, site and confirmation."""
    with tempfile.TemporaryDirectory() as folder:
        subgroups.write_results(collect(stored_runs(Path(folder))))


def run_corruptions(options: argparse.Namespace, output: Path) -> None:
    """Write the scores on corrupted images."""
    found = read_runs(sorted(file.parent for file in output.glob("*/metrics.json")), output_dir=output)
    runs = collect(found.runs).runs
    drawn = {"images": options.images, "seed": 0}
    tables = [corruptions.predictions_of(runs, options.rows, fold, **drawn) for fold in options.folds]
    classes = runs["supervised"][options.folds[0], 0].classes
    corruptions.summarised(pd.concat(tables), classes).round(6).to_csv(corruptions.RESULTS, index=False)
    print(f"{corruptions.RESULTS} written")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, words in (
        ("tune", "search settings on fold 0's validation part"),
        ("folds", "train the rows on all folds"),
        ("ablations", "train the rows without a part of their method, scored on test"),
        ("remedies", "try what might help a row, scored on validation"),
    ):
        one = verbs.add_parser(verb, help=words)
        one.add_argument("--seconds", type=float, default=math.inf, help="the whole command ends within these")
        one.add_argument("--out", type=Path, default=Path("outputs/study"), help="folder of the results to bring home")
        one.add_argument(
            "--cores", type=int, default=(os.cpu_count() or 1) * 3 // 2, help="that runs keep busy together"
        )
        one.add_argument("--rows", nargs="*", choices=ROWS, help="all, if not given")
        one.add_argument("--cpu", action="store_true", help="a dry run on drawn images, tiny")
    figures = verbs.add_parser("published", help="train what has published figures on DermaMNIST")
    figures.add_argument("--seconds", type=float, default=math.inf, help="the whole command ends within these")
    figures.add_argument("--cores", type=int, default=2, help="that runs keep busy together")
    verbs.choices["tune"].add_argument("--trials", type=int, default=12, help="of each row, at most")
    every = list(range(5))
    for verb, folds, seeds in (("folds", every, [0, 1, 2]), ("ablations", every, None), ("remedies", [0], [0, 1, 2])):
        regimes = [name for name in REGIMES if verb == "folds" or name in variants.SETS]
        verbs.choices[verb].add_argument("--regime", choices=regimes, default="fine_tuned", help="of docs/study.md")
        verbs.choices[verb].add_argument("--folds", type=int, nargs="*", default=folds)
        verbs.choices[verb].add_argument("--seeds", type=int, nargs="*", default=seeds)
        verbs.choices[verb].add_argument(
            "overrides", nargs="*", help="for every run, after --, such as -- precision=fp32"
        )
    verbs.add_parser("choose", help="write the best trials' settings").add_argument("folder", type=Path)
    verbs.add_parser("defaults", help="write the experiment files without chosen settings")
    packed = verbs.add_parser("pack", help="replace a committed archive by the finished runs under SKINKD_OUTPUT_DIR")
    packed.add_argument("--regime", choices=REGIMES, default="fine_tuned", help="whose archive")
    packed.add_argument("--of", choices=packing.PACKS, default="rows", help="which runs")
    unpacked = verbs.add_parser("unpack", help="restore the run folders of the committed archives")
    unpacked.add_argument("folder", type=Path)
    unpacked.add_argument("--regime", choices=REGIMES, default="fine_tuned", help="whose archive")
    reported = verbs.add_parser("report", help="write docs/results.md from the committed archive")
    reported.add_argument(
        "--wandb", action="store_true", help="also log the runs to W&B, with a report and a workspace"
    )
    verbs.add_parser("subgroups", help="scores by sex, age, site and confirmation; needs SKINKD_DATA_DIR")
    corrupt = verbs.add_parser("corruptions", help="scores on corrupted images; needs weights, images and medmnistc")
    corrupt.add_argument("--folds", type=int, nargs="+", required=True)
    corrupt.add_argument("--rows", nargs="+", choices=ROWS, required=True, help="supervised first")
    corrupt.add_argument("--images", type=int, default=500, help="of each fold's test part")
    return parser.parse_args()


def main() -> None:
    """Do what the command line says."""
    options = arguments()
    output = Path(os.environ.get("SKINKD_OUTPUT_DIR", "outputs"))
    if (regime := getattr(options, "regime", "fine_tuned")) != "fine_tuned":
        output = output / regime
        os.environ["SKINKD_OUTPUT_DIR"] = str(output)
    if options.verb == "choose":
        run_choosing(options)
    elif options.verb == "defaults":
        write_experiments({}, "Its settings are not yet chosen.")
    elif options.verb == "pack":
        packing.PACKS[options.of](output, regime)
    elif options.verb == "unpack":
        folders = [folder for name in ARCHIVES[regime] for folder in unpack(HERE / name, options.folder)]
        if regime in variants.ARCHIVES:
            folders += unpack(HERE / variants.ARCHIVES[regime], options.folder / "variants")
        print(f"{len(folders)} runs in {options.folder}")
    elif options.verb == "report":
        write_page(wandb=options.wandb)
    elif options.verb == "subgroups":
        run_subgroups()
    elif options.verb == "corruptions":
        run_corruptions(options, output)
    elif options.verb == "published":
        until = BEGAN + options.seconds - 10
        run_jobs(published.make_jobs(), cores=options.cores, until=until, logs=output / "published-logs")
    else:
        prepare(regime, DRY if options.cpu else ())
        print(f"prepared after {time.monotonic() - BEGAN:.0f} s", flush=True)
        if options.verb == "tune":
            run_tuning(options, BEGAN + options.seconds - 10, output)
        elif options.verb == "folds":
            run_folds(options, BEGAN + options.seconds - 30, output)
        else:
            run_variants(options, BEGAN + options.seconds - 30, output)


if __name__ == "__main__":
    main()
