"""The page of the study's first runs, docs/study_first_runs.md, from the archive benchmarks/study_runs.tar.xz alone.

``python benchmarks/study_report.py`` writes it. Nothing is trained, and neither data nor weights are needed.
"""

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from skinkd.analysis.runs import Run, read_runs
from skinkd.analysis.statistics import Difference, paired_bootstrap
from skinkd.scoring.metrics import evaluate
from study_archive import unpack

ROOT = Path(__file__).parent.parent
ARCHIVE = ROOT / "benchmarks" / "study_runs.tar.xz"
PAGE = ROOT / "docs" / "study_first_runs.md"
TEXT = Path(__file__).with_name("study_report.md")
"""The page's words, with a place for each figure and table."""
ORDER = (
    *("supervised", "label_smoothing", "kd", "byot", "swskd", "tsskd", "ssdkd", "hybrid_supervised", "mskd"),
    *("teacher", "teacher_head", "hybrid_teacher"),
)
BASELINES = dict.fromkeys(("label_smoothing", "kd", "byot", "swskd", "tsskd", "ssdkd"), "supervised") | {
    "mskd": "hybrid_supervised"
}
LEARNING = ("hybrid_supervised", "mskd", "supervised", "hybrid_teacher")
"""Rows whose epochs are shown."""
METRICS = {
    "balanced_accuracy": "balanced accuracy",
    "auroc_macro": "AUROC",
    "accuracy": "accuracy",
    "ece": "ECE",
    "melanoma": "melanoma sensitivity",
}
PAIRED = ("balanced_accuracy", "auroc_macro", "accuracy", "ece")
TRIALS = 3  # of each row, docs/study_trials.md
BINS, SPECIFICITY, REPLICATES, LEVEL, SEED = 15, 0.9, 1000, 0.95, 0

Runs = dict[str, dict[int, Run]]
"""Row -> fold -> run."""


def row_of(run: Run) -> str:
    """The row of docs/study.md that a run belongs to."""
    if run.method != "supervised":
        return {"ssdkd_projection": "teacher_head", "mskd_teacher": "hybrid_teacher"}.get(run.method, run.method)
    network = run.config["backbone"]["name"]
    if network == "mskd_student":
        return "hybrid_supervised"
    if network == "tf_efficientnet_lite2":
        return "teacher"
    return "label_smoothing" if run.config["loss"]["label_smoothing"] else "supervised"


def by_row(runs: Sequence[Run]) -> Runs:
    """The runs by row and fold, in the order of ``ORDER``.

    Raises:
        ValueError: a row has two runs on one fold, as with a second seed, which this page has no place for.
    """
    found: Runs = {name: {} for name in ORDER}
    for run in runs:
        row, fold = row_of(run), run.place[0]
        if fold in found[row]:
            raise ValueError(f"{row} has two runs on fold {fold}: {found[row][fold].folder.name}, {run.folder.name}")
        found[row][fold] = run
    return {row: dict(sorted(folds.items())) for row, folds in found.items()}


def sensitivity_at(table: pd.DataFrame, name: str, specificity: float) -> float:
    """The sensitivity for a class at the lowest threshold of its probability that has at least this specificity.

    The threshold is the test part's own, without interpolation; a probability above it counts as positive.
    """
    score, positive = table[f"p_{name}"].to_numpy(dtype=np.float64), (table["label"] == name).to_numpy()
    threshold = np.quantile(score[~positive], specificity, method="inverted_cdf")
    return float((score[positive] > threshold).mean())


def scores(run: Run) -> dict[str, float]:
    """The study's metrics of a run's test part."""
    values = evaluate(run.test, run.classes, calibration_bins=BINS)
    values["melanoma"] = sensitivity_at(run.test, "mel", SPECIFICITY)
    return {name: values[name] for name in METRICS}


def difference(found: Runs, row: str, folds: Sequence[int]) -> dict[str, Difference]:
    """A row less its baseline over folds, with intervals by lesion."""
    sides = [[found[name][fold].test for fold in folds] for name in (row, BASELINES[row])]
    classes = found[row][folds[0]].classes
    return paired_bootstrap(*sides, classes, replicates=REPLICATES, seed=SEED, level=LEVEL, calibration_bins=BINS)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, its first column to the left and the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def coverage_table(found: Runs) -> str:
    """Which row has finished on which fold."""
    lines = [[f"`{row}`", *("yes" if fold in folds else "–" for fold in range(5))] for row, folds in found.items()]
    return markdown(["row", *(f"fold {fold}" for fold in range(5))], lines)


def score_table(found: Runs, folds: Sequence[int]) -> str:
    """The mean over folds of each metric, for the rows that have all of these folds."""
    lines = []
    for row, runs in found.items():
        # the head's network is its teacher's
        if row != "teacher_head" and set(folds) <= set(runs):
            values = pd.DataFrame([scores(runs[fold]) for fold in folds]).mean()
            lines.append([f"`{row}`", *(f"{values[name]:.4f}" for name in METRICS)])
    return markdown(["row", *METRICS.values()], lines)


def difference_table(found: Runs, folds: Sequence[int]) -> str:
    """Each row less its baseline: in balanced accuracy on each fold, and the mean over folds with its interval."""
    lines = []
    for row, baseline in BASELINES.items():
        here = difference(found, row, folds)
        cells = [f"{one.value:+.4f} [{one.low:+.4f}, {one.high:+.4f}]" for one in (here[name] for name in PAIRED)]
        each = [f"{value:+.4f}" for value in by_fold(found, row, folds)]
        lines.append([f"`{row}`", f"`{baseline}`", *each, *cells])
    names = [f"{METRICS[name]}, mean" if name == "balanced_accuracy" else METRICS[name] for name in PAIRED]
    return markdown(["row", "baseline", *(f"fold {fold}" for fold in folds), *names], lines)


def by_fold(found: Runs, row: str, folds: Sequence[int]) -> list[float]:
    """A row less its baseline in balanced accuracy on each of the folds."""
    values = [[scores(found[name][fold])["balanced_accuracy"] for fold in folds] for name in (row, BASELINES[row])]
    return [one - other for one, other in zip(*values, strict=True)]


def learning_table(found: Runs, rows: Sequence[str], folds: Sequence[int]) -> str:
    """Balanced accuracy on validation after each epoch; then, of the kept epoch, what shows how far it has learned."""
    lines = []
    for row in rows:
        for fold in folds:
            run = found[row][fold]
            assert run.val is not None
            epochs = [f"{float(value):.3f}" for value in run.history["val/balanced_accuracy"]]
            (hard,) = (name for name in ("train/ce", "train/classification", "train/combined") if name in run.history)
            loss = float(run.history[hard].iloc[run.metrics["best_epoch"] - 1])
            kept = [f"{loss:.3f}", f"{run.metrics['val/auroc_macro']:.3f}", str(run.val["prediction"].nunique())]
            lines.append([f"`{row}`", str(fold), *epochs, *kept])
    numbers = [f"epoch {number + 1}" for number in range(len(lines[0]) - 5)]
    return markdown(["row", "fold", *numbers, "cross-entropy", "AUROC", "classes"], lines)


def times(runs: Sequence[Run]) -> tuple[str, str, str]:
    """When the first run began, when the first had its test scores, and when the last ended."""

    def said(file: Path) -> float:
        return file.stat().st_mtime

    began = min(said(run.folder / "config.yaml") for run in runs)
    ended = sorted(said(run.folder / "metrics.json") for run in runs)
    first, scored, last = (datetime.fromtimestamp(one, UTC) for one in (began, ended[0], ended[-1]))
    return f"{first:%Y-%m-%d %H:%M:%S}", f"{scored:%H:%M:%S}", f"{last:%H:%M:%S}"


def machine(runs: Sequence[Run]) -> str:
    """The GPU, processor and versions that all runs had."""
    (text,) = {(run.folder / "environment.txt").read_text(encoding="utf-8") for run in runs}
    facts = dict(
        line.replace("==", " ").rsplit(" ", 1) for line in text.splitlines() if "==" in line or "python" in line
    )
    (gpu,) = (line.removeprefix("gpu ") for line in text.splitlines() if line.startswith("gpu "))
    (cores,) = (line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith("processor cores"))
    return f"{gpu}, {cores} processor cores, Python {facts['python']}, torch {facts['torch']}, timm {facts['timm']}"


def page(runs: Sequence[Run]) -> str:
    """docs/study_first_runs.md."""
    found = by_row(runs)
    everywhere = sorted(set.intersection(*(set(folds) for folds in found.values())))
    longer = [*everywhere, 2]
    began, scored, ended = times(runs)
    spread = [by_fold(found, row, everywhere) for row in BASELINES]
    apart = sum(max(each) - min(each) > abs(sum(each) / len(each)) for each in spread)
    short = [f"`{row}`" for row, folds in found.items() if 2 not in folds]
    return TEXT.read_text(encoding="utf-8").format(
        runs=len(runs),
        machine=machine(runs),
        began=began,
        scored=scored,
        ended=ended,
        coverage=coverage_table(found),
        scores=score_table(found, everywhere),
        longer=score_table(found, longer),
        short=" and ".join(short),
        differences=difference_table(found, everywhere),
        learning=learning_table(found, LEARNING, everywhere),
        apart=apart,
        compared=len(BASELINES),
        replicates=REPLICATES,
        trials=TRIALS,
    )


def stored_runs(folder: Path) -> tuple[Run, ...]:
    """The runs of the archive, unpacked below ``folder``."""
    unpack(ARCHIVE, folder)
    found = read_runs([folder], output_dir=folder)
    if found.skipped:
        raise ValueError(f"the archive has runs that cannot be read: {found.skipped}")
    return found.runs


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(page(stored_runs(Path(folder))), encoding="utf-8")
    print(f"{PAGE} written")


if __name__ == "__main__":
    main()
