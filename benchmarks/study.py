"""The first study: seven methods on HAM10000 at 64 px, and what leaking protocols add to a score. Writes docs/results.md.

``make study`` runs it: every sweep below, each run skipped if it is finished and resumed if it is not, and then the page, of
which every figure comes from the run folders. ``--report`` writes the page alone.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from skinkd.analysis.comparison import Comparison, compare
from skinkd.analysis.report import markdown_tables
from skinkd.analysis.rows import Row, group_rows
from skinkd.analysis.runs import read_runs
from skinkd.analysis.tables import all_tables
from skinkd.metrics import evaluate

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "results.md"
SEEDS = "seed=0,1,2"
HYBRID = ("backbone=mskd_student", "backbone.conv_branch=resnet10t")
TEACHER = ("backbone@method.teacher.run.backbone=timm", "method.teacher.run.backbone.name=resnet10t")

SWEEPS = {
    "study-teacher-free": ["method=supervised,byot,swskd,tsskd", SEEDS],
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
    "study-tsskd-warmup",
    "study-tsskd-ratio",
    "study-taught",
    "study-hybrid",
    "study-mskd",
)
METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "F1 (macro)",
    "auroc_macro": "AUROC (macro)",
}
TAUGHT = {name: METRICS[name] for name in ("accuracy", "balanced_accuracy", "auroc_macro")}

CLAIMS = (
    (
        "swskd",
        "SW-SKD: ahead of the second-best method on HAM10000 by 0.8 to 1.4 points of weighted precision and 0.9 to 2.1 of "
        "weighted recall, ResNet-50 and 101 (Zheng et al., 2025). Our losses are a reconstruction from the paper's abstract.",
    ),
    ("tsskd", "TSS-KD: self-distillation with per-class temperatures is ahead of plain training (Liu et al., 2025)."),
    (
        "ssdkd",
        "SSD-KD: the student goes from 75.4 % to 84.6 % accuracy on ISIC 2019, past its teacher's 82.0 % (Wang et al., 2023).",
    ),
    (
        "mskd",
        "MSKD: 95.88 % accuracy on HAM10000, on a test set that holds copies of training images (Pavel et al., 2025).",
    ),
)


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
    """Each paper's claim beside the paired differences to ``supervised``, and whether their sign is settled after Holm."""
    lines = ["| the paper's claim | here | accuracy, difference to `supervised` | balanced accuracy | AUROC (macro) |"]
    lines.append("| --- | --- | --- | --- | --- |")
    found = comparison.tests[comparison.tests["test"] == "paired bootstrap"].set_index(["row", "metric"])
    for method, claim in CLAIMS:
        for row in (row for row in comparison.rows if row.method == method):
            cells = []
            for metric in ("accuracy", "balanced_accuracy", "auroc_macro"):
                line = found.loc[(row.label, metric)]
                sign = "**higher**" if line["difference"] > 0 else "**lower**"
                verdict = sign if line["p_holm"] < 0.05 else "not settled"
                numbers = f"{line['difference']:+.3f} ({line['low']:+.3f} to {line['high']:+.3f})".replace("-", "−")
                cells.append(f"{numbers}: {verdict}")
            lines.append(f"| {claim} | `{row.label}` | {' | '.join(cells)} |")
            claim = "the same"
    return "\n".join(lines)


def teachers(comparison: Comparison) -> str:
    """Test metrics of the teacher that each row's students share, beside the students' means."""
    lines = ["| students | " + " | ".join(f"{name}: teacher, students" for name in TAUGHT.values()) + " |"]
    lines.append("| --- |" + " --- |" * len(TAUGHT))
    for row in comparison.rows:
        metrics = pd.DataFrame([run.metrics for run in row.runs])
        if "teacher/test/accuracy" in metrics:
            cells = [
                f"{metrics[f'teacher/test/{key}'].mean():.3f}, {metrics[f'test/{key}'].mean():.3f}" for key in TAUGHT
            ]
            lines.append(f"| `{row.label}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def inflation(output_dir: Path) -> str:
    """Scores of the same training under protocols that leak and under grouped ones, mean and sd over seeds."""
    lines = ["| training | split | " + " | ".join(METRICS.values()) + " |", "| --- | --- |" + " --- |" * len(METRICS)]
    named = (
        ("study-teacher-free", "as above", "by lesion"),
        ("study-image-level", "as above", "by image"),
        ("study-balanced", "classes balanced inside the training part", "by lesion"),
        ("study-oversampled", "classes balanced by copies before the split", "by image, copies on both sides"),
    )
    for group, training, split in named:
        (row,) = (row for row in rows_of(group, output_dir=output_dir) if row.method == "supervised")
        values = pd.DataFrame([evaluate(run.test, run.classes, calibration_bins=15) for run in row.runs])
        cells = [f"{values[name].mean():.3f} ± {values[name].std(ddof=1):.3f}" for name in METRICS]
        lines.append(f"| {training} | {split} | {' | '.join(cells)} |")
    return "\n".join(lines)


def memory_of_lesions(output_dir: Path) -> str:
    """Accuracy of the image-level runs on test images whose lesion training has seen, and on the others."""
    (row,) = rows_of("study-image-level", output_dir=output_dir)
    lines = [
        "| test images of the image-level runs | images | accuracy | balanced accuracy |",
        "| --- | --- | --- | --- |",
    ]
    cells: dict[bool, list[tuple[int, float, float]]] = {True: [], False: []}
    for run in row.runs:
        splits = pd.read_csv(run.folder / "splits.csv", dtype=str)
        seen = run.test["group"].isin(splits.loc[splits["split"] == "train", "group"])
        for known in cells:
            part = run.test[(seen == known).to_numpy()]
            scores = evaluate(part, run.classes, calibration_bins=15)
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


def page(output_dir: Path) -> str:
    """docs/results.md."""
    comparison = compare(rows_of(*MAIN, output_dir=output_dir))
    titles = {table.name: table.title for table in all_tables(comparison)}
    tables = "\n\n".join(f"### {titles[name]}\n\n{text}" for name, text in markdown_tables(comparison).items())
    config = comparison.rows[0].runs[0].config
    made_on = environment(rows_of(*SWEEPS, output_dir=output_dir))
    commands = "\n".join(" ".join(command(group)) for group in SWEEPS)
    return f"""# A first study

Seven methods on all of HAM10000 (10,015 images of 7,470 lesions), split by lesion 70/10/20, at
{config["data"]["image_size"]} px, small networks from scratch, {config["trainer"]["max_epochs"]} epochs, three seeds each.
Optimizer, schedule, epochs and augmentation are the same for every method and every teacher (`conf/experiment/study.yaml`);
none was tuned for any method. That is far from the papers' networks, sizes and epochs: it shows how the methods compare here,
not what they can reach.

Made by `make study`: {made_on}. Every figure on this page is written from the run folders by
that command; the tables of the methods are those of `python -m skinkd.compare` on the same folders. Training times are of runs
that shared the machine with others.

## The papers' claims

Difference to `supervised` training of the same deployed network, paired over the same test lesions, with its 95 % interval.
"higher" and "lower" are beyond chance (p < 0.05 after Holm's correction for all rows compared); "not settled" is the rest.

{claims(comparison)}

Each paper reports its method ahead of what it compares with. Where the table says "lower" or "not settled", that did not show
here, at this scale and with the published weights of the losses.

What was tried: TSS-KD as published (`warmup_epochs=0, ratio=0.1`: its term starts large, and three epochs from scratch at this
learning rate can end at the majority class), with the weight of its term raised linearly from 0 over the three epochs
(`warmup_epochs=3`), and with the other classes' temperature nearer to the true class's (`ratio=0.5`), up to plain distillation
between the two views (`ratio=1`). Nothing else was tuned, for any method.

Students of one row share one teacher; their spread leaves its training out. The teacher and the mean of its students:

{teachers(comparison)}

## What leaking protocols add

The same network and method (`supervised`), scored on its own protocol's test part; mean ± sd over three seeds. The first two
lines train alike; the last two train alike, for one epoch of seven classes with 4,694 images each.

{inflation(output_dir)}

Each line has a test part of its own, so only differences well beyond the spread say something. A network that has seen each
image three times can remember little; longer training has more to gain from a leak.

Inside the image-level runs (lesions photographed more than once are more often of the rarer classes, so the two lines differ in
more than what training has seen):

{memory_of_lesions(output_dir)}

## The methods

{tables}

## Commands

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
