"""The first study: seven methods on HAM10000 at 64 px, and what leaking protocols add to a score. Writes docs/first_study.md.

``make first-study`` runs it: every sweep below, each run skipped if it is finished and resumed if it is not, and then the page,
of which every figure comes from the run folders. ``--report`` writes the page alone.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skinkd.analysis.aggregate import METRICS, Protocol, values_of
from skinkd.analysis.comparison import Comparison, compare, summary
from skinkd.analysis.formats import amount
from skinkd.analysis.report import markdown_tables
from skinkd.analysis.rows import Row, group_rows
from skinkd.analysis.runs import read_runs
from skinkd.analysis.tables import all_tables
from skinkd.scoring.bootstrap import draw_groups, percentiles, weighted_metrics
from skinkd.scoring.metrics import evaluate
from skinkd.scoring.predictions import as_scores
from skinkd.scoring.widening import Widening

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "first_study.md"
PROTOCOL = Protocol(calibration_bins=15, replicates=1000, level=0.95, seed=0)
SEEDS = "seed=0,1,2"
HYBRID = ("backbone=mskd_student", "backbone.conv_branch=resnet10t")
TEACHER = ("backbone@method.teacher.run.backbone=timm", "method.teacher.run.backbone.name=resnet10t")

SWEEPS = {
    "study-teacher-free": ["method=supervised,byot,swskd,tsskd", SEEDS],
    "study-swskd-warmup": ["method=swskd", "method.warmup_epochs=3", SEEDS],
    "study-tsskd-warmup": ["method=tsskd", "method.warmup_epochs=3", SEEDS],
    "study-tsskd-ratio": ["method=tsskd", "method.ratio=0.5,1", SEEDS],
    "study-taught": ["method=kd,ssdkd", *TEACHER, SEEDS],
    "study-hybrid": ["method=supervised", *HYBRID, SEEDS],
    "study-mskd": [
        "method=mskd",
        *HYBRID,
        "method.teacher.run.backbone.small_vit.patch_size=8",
        "method.teacher.run.backbone.convmixer.patch_size=4",
        SEEDS,
    ],
    "study-image-level": ["method=supervised", "protocol=image_level", SEEDS],
    "study-oversampled": [
        "method=supervised",
        "protocol=oversampled",
        "data.near_duplicate_bits=null",
        "trainer.max_epochs=1",
        SEEDS,
    ],
    "study-balanced": [
        "method=supervised",
        "sampler=per_class",
        "sampler_target=4694",
        "trainer.max_epochs=1",
        SEEDS,
    ],
}
"""Group of each sweep, and its command line after ``experiment=study``. The last two see each class 4,694 times an epoch,
as many images in one epoch as the others in five."""

MAIN = (
    "study-teacher-free",
    "study-swskd-warmup",
    "study-tsskd-warmup",
    "study-tsskd-ratio",
    "study-taught",
    "study-hybrid",
    "study-mskd",
)
MAIN_METRICS = ("accuracy", "balanced_accuracy", "auroc_macro")

CLAIMS = (
    (
        "swskd",
        "SW-SKD: ahead of the second-best method on HAM10000 by 0.8 to 1.4 points of weighted precision and 0.9 to 2.1 of "
        "weighted recall, ResNet-50 and 101 (Zheng et al., 2025). Our losses are a reconstruction from the paper's abstract.",
        ("precision_weighted", "recall_weighted", "balanced_accuracy", "auroc_macro"),
    ),
    (
        "tsskd",
        "TSS-KD: self-distillation with per-class temperatures is ahead of plain training (Liu et al., 2025).",
        MAIN_METRICS,
    ),
    (
        "ssdkd",
        "SSD-KD: the student goes from 75.4 % to 84.6 % accuracy on ISIC 2019, past its teacher's 82.0 % (Wang et al., 2023).",
        MAIN_METRICS,
    ),
    (
        "mskd",
        "MSKD: 95.88 % accuracy on HAM10000, on a test set that holds copies of training images (Pavel et al., 2025).",
        MAIN_METRICS,
    ),
    (
        "byot",
        "Be your own teacher: a network that teaches its shallower exits is ahead of plain training.",
        MAIN_METRICS,
    ),
    ("kd", "Knowledge distillation: a student is ahead of one that is trained without its teacher.", MAIN_METRICS),
)
"""Method, claim, and the metrics it is judged by. The first four are the papers'."""

LEAKS = (
    (
        "study-teacher-free",
        "study-image-level",
        "by image",
        ("accuracy", "balanced_accuracy", "f1_macro", "auroc_macro"),
    ),
    (
        "study-balanced",
        "study-oversampled",
        "by image, after copies have made the classes equal",
        ("balanced_accuracy",),
    ),
)
"""Sweep split by lesion, sweep whose split leaks, that split, and the metrics in which both may be compared: where the shares
of the classes in the two test parts differ, only those that they do not enter."""


def command(group: str) -> list[str]:
    """The command of a sweep, as a user would type it."""
    return ["python", "-m", "skinkd.train", "-m", "experiment=study", *SWEEPS[group], f"group={group}"]


def run_all(extra: Sequence[str]) -> None:
    """Run every sweep, and raise SystemExit after the last if any has a failed job."""
    codes = {
        group: subprocess.run([sys.executable, *command(group)[1:], *extra], check=False).returncode for group in SWEEPS
    }
    if failed := [group for group, code in codes.items() if code]:
        raise SystemExit(f"not finished: {', '.join(failed)}; the same command goes on")


def rows_of(*groups: str, output_dir: Path) -> tuple[Row, ...]:
    """The finished runs of sweeps, gathered into rows."""
    found = read_runs([output_dir / "sweeps" / group for group in groups], output_dir=output_dir)
    for left_out in found.skipped:
        print(f"left out: {left_out.folder}: {left_out.reason}")
    return group_rows(found.runs)


def claims(comparison: Comparison) -> str:
    """Each claim beside the accuracy and the paired differences to ``supervised``, and whether their sign is settled."""
    lines = [
        "| the claim | here | accuracy | difference to `supervised` (95 % interval) |",
        "| --- | --- | ---: | --- |",
    ]
    found = comparison.tests[comparison.tests["test"] == "paired bootstrap"].set_index(["row", "metric"])
    for method, claim, metrics in CLAIMS:
        for row in (row for row in comparison.rows if row.method == method):
            said = []
            for metric in metrics:
                line: Any = found.loc[(row.label, metric)]
                sign = "**higher**" if line["difference"] > 0 else "**lower**"
                verdict = sign if line["p_holm"] < 0.05 else "not settled"
                said.append(f"{METRICS[metric]} {signed(line['difference'], line['low'], line['high'])}: {verdict}")
            accuracy = summary(comparison, "accuracy")[row.label]["mean"]
            lines.append(f"| {claim} | `{row.label}` | {accuracy:.3f} | {'<br>'.join(said)} |")
            claim = "the same"
    return "\n".join(lines)


def signed(difference: float, low: float, high: float) -> str:
    """A difference with its interval, all with their signs."""
    return f"{difference:+.3f} ({low:+.3f} to {high:+.3f})".replace("-", "−")


def teachers(comparison: Comparison, output_dir: Path) -> str:
    """Test metrics of the teacher that each row's students share, beside the students' means."""
    cells = [f"{METRICS[key]}: teacher, students" for key in MAIN_METRICS]
    lines = ["| students | parameters: teacher, students | " + " | ".join(cells) + " |", "| --- |" + " ---: |" * 4]
    for row in comparison.rows:
        metrics = pd.DataFrame([run.metrics for run in row.runs])
        if "teacher/test/accuracy" in metrics:
            own = metrics["parameters"].mean()
            cells = [f"{amount(teacher_parameters(row, output_dir))}, {amount(own)}"]
            for key in MAIN_METRICS:
                cells.append(f"{metrics[f'teacher/test/{key}'].mean():.3f}, {metrics[f'test/{key}'].mean():.3f}")
            lines.append(f"| `{row.label}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def teacher_parameters(row: Row, output_dir: Path) -> float:
    """Parameters of the teacher of a row's students: of the run that has the test scores they were given."""
    given = {key: value for key, value in row.runs[0].metrics.items() if key.startswith("teacher/test/")}
    for file in sorted(output_dir.glob("*/metrics.json")):
        metrics = json.loads(file.read_text())
        if all(metrics.get(key.removeprefix("teacher/")) == value for key, value in given.items()):
            return float(metrics["parameters"])
    return float("nan")


def inflation(output_dir: Path) -> str:
    """Scores of the same training under a split by lesion and one that leaks, and what the second adds."""
    lines = ["| the leaking split | metric | split by lesion | leaking split | difference (95 % interval) |"]
    lines.append("| --- | --- | ---: | ---: | --- |")
    for honest, leaking, words, metrics in LEAKS:
        pair = [one_row(group, output_dir) for group in (honest, leaking)]
        values = [pd.DataFrame([values_of(run, PROTOCOL) for run in row.runs]) for row in pair]
        drawn = [replicates(row, seed) for seed, row in enumerate(pair)]
        scores = [as_scores(row.runs[0].test, row.classes) for row in pair]
        widening = Widening.of([(scores[0].group, scores[0].label), (scores[1].group, scores[1].label)])
        bounds = percentiles({name: drawn[1][name] - drawn[0][name] for name in metrics}, PROTOCOL.level, widening)
        for name in metrics:
            cells = [f"{table[name].mean():.3f} ± {table[name].std(ddof=1):.3f}" for table in values]
            low, high = bounds[name]
            sign = "**higher**" if low > 0 else "**lower**" if high < 0 else "not settled"
            difference = signed(values[1][name].mean() - values[0][name].mean(), low, high)
            lines.append(f"| {words} | {METRICS[name]} | {' | '.join(cells)} | {difference}: {sign} |")
    return "\n".join(lines)


def one_row(group: str, output_dir: Path) -> Row:
    """The ``supervised`` runs of a sweep."""
    (row,) = (row for row in rows_of(group, output_dir=output_dir) if row.method == "supervised")
    return row


def replicates(row: Row, seed: int) -> dict[str, np.ndarray]:
    """Every metric's mean over the runs of a row, in resamplings of their test set by lesion."""
    runs = [as_scores(run.test, run.classes) for run in row.runs]
    rng, parts = np.random.default_rng(seed), []
    for _ in range(PROTOCOL.replicates // 100):
        weights = draw_groups(int(runs[0].group.max()) + 1, 100, rng)
        parts.append([weighted_metrics(scores, weights) for scores in runs])
    return {
        name: np.concatenate([np.mean([one[name] for one in part], axis=0) for part in parts]) for name in parts[0][0]
    }


def memory_of_lesions(output_dir: Path) -> str:
    """Accuracy of the image-level runs on test images whose lesion training has seen, and on the others."""
    row = one_row("study-image-level", output_dir)
    lines = [
        "| test images of the image-level runs | images | accuracy | balanced accuracy |",
        "| --- | ---: | ---: | ---: |",
    ]
    cells: dict[bool, list[tuple[int, float, float]]] = {True: [], False: []}
    for run in row.runs:
        splits = pd.read_csv(run.folder / "splits.csv", dtype=str)
        seen = run.test["group"].isin(splits.loc[splits["split"] == "train", "group"])
        for known in cells:
            part = run.test[(seen == known).to_numpy()]
            scores = evaluate(part, run.classes, calibration_bins=PROTOCOL.calibration_bins)
            cells[known].append((len(part), scores["accuracy"], scores["balanced_accuracy"]))
    for known, words in ((True, "whose lesion is in training too"), (False, "whose lesion is not")):
        n, accuracy, balanced = (np.array(column) for column in zip(*cells[known], strict=True))
        lines.append(
            f"| {words} | {n.mean():,.0f} | {accuracy.mean():.3f} ± {accuracy.std(ddof=1):.3f} "
            f"| {balanced.mean():.3f} ± {balanced.std(ddof=1):.3f} |"
        )
    return "\n".join(lines)


def environment(rows: Sequence[Row]) -> str:
    """Commit and hardware of the runs, from their own environment.txt, each once."""
    lines = [
        line for row in rows for run in row.runs for line in (run.folder / "environment.txt").read_text().splitlines()
    ]
    found = {
        name: sorted({line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")})
        for name in ("commit", "processor", "processor cores", "torch threads", "gpu")
    }
    found["processor"] = [name for name in found["processor"] if not name.startswith("cores ")]
    commits = [one[:12] + one[40:] for one in found["commit"]]
    said = [f"commit{'s' if len(commits) > 1 else ''} {' and '.join(commits)}"]
    said.append(f"{' or '.join(found['processor'])} ({' or '.join(found['processor cores'])} cores)")
    said.append(f"{' or '.join(found['torch threads'])} torch thread(s) a run")
    said.append(" and ".join(found["gpu"]) or "no GPU")
    return ", ".join(said)


def settings(rows: Sequence[Row]) -> str:
    """What the recorded commands of the runs have beside the study's own words, of whole runs: machine settings."""
    words = set()
    for row in rows:
        for run in row.runs:
            text = (run.folder / "environment.txt").read_text()
            (line,) = [line for line in text.splitlines() if line.startswith("command ")]
            words |= {word for word in line.split() if word.startswith(("data.num_workers=", "sweep.devices="))}
    return " ".join(sorted(words))


def page(output_dir: Path) -> str:
    """docs/first_study.md."""
    every = rows_of(*SWEEPS, output_dir=output_dir)
    comparison = compare(rows_of(*MAIN, output_dir=output_dir))
    titles = {table.name: table.title for table in all_tables(comparison)}
    tables = "\n\n".join(f"### {titles[name]}\n\n{text}" for name, text in markdown_tables(comparison).items())
    notes = "".join(f"{note}\n\n" for note in comparison.notes)
    first = comparison.rows[0].runs[0]
    splits = pd.read_csv(first.folder / "splits.csv", dtype=str)
    parts = ", ".join(f"{n:,} {part}" for part, n in splits["split"].value_counts().items())
    lesions, methods = splits["group"].nunique(), len({row.method for row in comparison.rows})
    seeds = " or ".join(map(str, sorted({len(row.runs) for row in every})))
    pixels, epochs = first.config["data"]["image_size"], first.config["trainer"]["max_epochs"]
    commands = "\n".join(" ".join(command(group)) for group in SWEEPS)
    return f"""# A first study

{methods} methods on all of HAM10000 ({len(splits):,} images of {lesions:,} lesions: {parts}), split by lesion, at
{pixels} px, small networks from scratch, {epochs} epochs, {seeds} seeds each.
Optimizer, schedule, epochs and augmentation are the same for every method and every teacher (`conf/experiment/study.yaml`),
but for optimizer and schedule of SSD-KD's self-supervision head, which has its own (`conf/optim/ssdkd_projection.yaml`); none
was tuned for any method. That is far from the papers' networks, sizes and epochs: it shows how the methods compare here, not
what they can reach.

The networks: `resnet10t` is timm's at half its width, the teacher of `kd` and `ssdkd` the same at its whole width;
`mskd_student` is MSKD's hybrid student with timm's `resnet10t` as its convolutional branch, and its teacher MSKD's hybrid with
larger patches than published.

Made by `make first-study`: {environment(every)}. Every figure that was measured here is written
from the run folders by that command; the tables of the methods are those of `python -m skinkd.compare` on the same folders.
Training times are of runs that shared the machine with others.

## The claims

Difference to `supervised` training of the same deployed network, paired over the same test lesions. "higher" and "lower" are
beyond chance (p < 0.05 after Holm's correction for all rows compared); "not settled" is the rest.

{claims(comparison)}

Each paper reports its method ahead of what it compares with. Where the table says "lower" or "not settled", that did not show
here, at this scale and with the published weights of the losses (SW-SKD's are ours).

What was tried: each method with its defaults. SW-SKD also with the weights of its terms raised linearly from 0 over the epochs
(`warmup_epochs=3`). TSS-KD as published (`warmup_epochs=0, ratio=0.1`: its term starts large, and so few epochs from scratch at
this learning rate can end at the majority class), with its term raised likewise (`warmup_epochs=3`), and with the other
classes' temperature nearer to the true class's (`ratio=0.5`), up to plain distillation between the two views (`ratio=1`).
Nothing else was tuned, for any method.

The students of a row share one teacher; their spread leaves its training out. The teacher, and the mean of its students:

{teachers(comparison, output_dir)}

## What leaking protocols add

The same network and method (`supervised`), mean ± sd over the seeds; the difference is between two test parts, each resampled
by lesion on its own. The oversampled test part has as many images of each class as of any other, so that accuracy, F1 and
AUROC would be higher there without any leak: it is compared in balanced accuracy, which the shares of the classes do not enter,
and with a training whose classes are balanced by drawing inside the training part, as many images an epoch, for one epoch.

{inflation(output_dir)}

A network that has seen most images a few times can remember little; longer training has more to gain from a leak. Where classes
are balanced, a rare image, or its copies, is seen dozens of times.

Inside the image-level runs (lesions photographed more than once are more often of the rarer classes, so the two lines differ in
more than what training has seen):

{memory_of_lesions(output_dir)}

## The methods

{notes}{tables}

## Commands

Our runs had `{settings(every)}` beside these, which changes results by rounding at most.

```sh
{commands}
python -m skinkd.compare {" ".join(f"outputs/sweeps/{group}" for group in MAIN)}
```
"""


def main() -> None:
    """Run the sweeps, unless told not to, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--report", action="store_true", help="write the page from the runs that are there")
    parser.add_argument("extra", nargs="*", help="overrides for every sweep, such as sweep.devices=2")
    arguments = parser.parse_args()
    if not arguments.report:
        run_all(arguments.extra)
    PAGE.write_text(page(Path(os.environ.get("SKINKD_OUTPUT_DIR", "outputs"))), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
