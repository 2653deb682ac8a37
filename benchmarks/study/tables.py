"""The tables of docs/results.md, in Markdown."""

from collections.abc import Sequence

import pandas as pd

from skinkd.analysis.abstention import risk_lines
from skinkd.analysis.aggregate import Protocol, calibration_line
from skinkd.analysis.rows import Row

from .collect import BASELINES, Collected
from .scores import BINS, LEVEL, METRICS, REPLICATES, SEED, scores
from .verdicts import FOLDS, PRIMARY, Compared, judged, verdict

LEARNING = ("hybrid_supervised", "mskd", "hybrid_features", "mskd_features", "supervised", "hybrid_teacher")
"""Rows whose epochs are shown."""
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.5)
PROTOCOL = Protocol(calibration_bins=BINS, replicates=REPLICATES, level=LEVEL, seed=SEED)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, its first column to the left and the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def coverage_table(collected: Collected) -> str:
    """Which row has finished on which fold, and with which seeds."""

    def said(row: str, fold: int) -> str:
        seeds = [seed for of, seed in collected.places(row) if of == fold]
        return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}" if seeds else "–"

    lines = [[f"`{row}`", *(said(row, fold) for fold in range(FOLDS))] for row in collected.runs]
    return markdown(["row", *(f"fold {fold}" for fold in range(FOLDS))], lines)


def score_table(collected: Collected) -> str:
    """The mean over trainings of each metric, for the rows that have all folds."""
    lines = []
    for row, runs in collected.runs.items():
        # the head's network is its teacher's
        if row != "teacher_head" and len(collected.folds(row)) == FOLDS:
            values = pd.DataFrame([scores(run) for run in runs.values()])
            cells = [f"{values[name].mean():.3f} ± {values[name].std(ddof=1):.3f}" for name in METRICS]
            lines.append([f"`{row}`", *cells])
    return markdown(["row", *METRICS.values()], lines)


def signed(value: float, low: float, high: float) -> str:
    """A difference with its interval, all with their signs."""
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})".replace("-", "−")


def intervals(one: Compared) -> list[str]:
    """A difference in the primary metric with its interval for other lesions, and that for other trainings too."""
    first, second = one.lesions[PRIMARY], one.trained[PRIMARY]
    outer = f"({second.low:+.3f} to {second.high:+.3f})".replace("-", "−")
    return [signed(first.value, first.low, first.high), outer]


def verdict_table(methods: Sequence[Compared]) -> str:
    """Each method less its baseline in the primary metric: on each fold, both intervals, p, and the verdict."""
    p = judged(methods, PRIMARY)
    lines = []
    for one in methods:
        by_fold = dict(zip(one.folds, one.by_fold, strict=True))
        folds = [f"{by_fold[fold]:+.3f}".replace("-", "−") if fold in by_fold else "" for fold in range(FOLDS)]
        holm = "" if one.row not in p else f"{p[one.row]:.3f}" if one.row in BASELINES else "apart"
        said = verdict(one, p.get(one.row))
        names = [f"`{one.row}`", f"`{one.other}`", str(one.trainings)]
        lines.append([*names, *folds, *intervals(one), f"{one.trained[PRIMARY].p:.3f}", holm, f"**{said}**"])
    header = ["row", "baseline", "trainings", *(f"fold {fold}" for fold in range(FOLDS))]
    return markdown([*header, "mean (other lesions)", "(other trainings too)", "p", "p (Holm)", "verdict"], lines)


def secondary_table(methods: Sequence[Compared]) -> str:
    """Each method less its baseline in the other metrics, with the interval over trainings and lesions."""
    names = [name for name in METRICS if name != PRIMARY]
    lines = []
    for one in methods:
        cells = []
        for name in names:
            found, p = one.trained[name], judged(methods, name).get(one.row)
            mark = "" if p is None or p >= 0.05 else " \\*"
            cells.append(signed(found.value, found.low, found.high) + mark)
        lines.append([f"`{one.row}`", str(one.trainings), *cells])
    return markdown(["row", "trainings", *(METRICS[name] for name in names)], lines)


def pair_table(pairs: Sequence[Compared]) -> str:
    """Differences in the primary metric with both intervals."""
    lines = []
    for one in pairs:
        p = one.trained[PRIMARY].p
        lines.append([f"`{one.row}` less `{one.other}`", str(one.trainings), *intervals(one), f"{p:.3f}"])
    return markdown(["difference", "trainings", "mean (other lesions)", "(other trainings too)", "p"], lines)


def calibration_table(collected: Collected, rows: Sequence[str]) -> str:
    """ECE, cross-entropy and Brier score before and after one temperature, fitted on validation."""
    lines = []
    for name in rows:
        line = calibration_line(Row(name, tuple(collected.once(name)), name), PROTOCOL)
        cells = [f"{line[f'{score}_{when}']:.3f}" for score in ("ece", "loss", "brier") for when in ("before", "after")]
        lines.append([f"`{name}`", f"{line['temperature']:.2f}", *cells])
    names = [f"{score} {when}" for score in ("ECE", "cross-entropy", "Brier") for when in ("before", "after")]
    return markdown(["row", "temperature", *names], lines)


def risk_table(collected: Collected, rows: Sequence[str]) -> str:
    """Share of wrong predictions among the most confident images."""
    lines = []
    for name in rows:
        risks = risk_lines(Row(name, tuple(collected.runs[name].values()), name))
        curve = risks.groupby("coverage")["risk"].mean()
        cells = [f"{curve.iloc[(abs(curve.index - coverage)).argmin()]:.3f}" for coverage in COVERAGES]
        lines.append([f"`{name}`", *cells])
    return markdown(["row", *(f"{coverage:.0%} kept" for coverage in COVERAGES)], lines)


def learning_table(collected: Collected, rows: Sequence[str], folds: Sequence[int]) -> str:
    """Balanced accuracy on validation after each epoch; then, of the kept epoch, what shows how far it has learned."""
    lines = []
    for row in rows:
        for fold in folds:
            run = next(run for (of, _), run in sorted(collected.runs[row].items()) if of == fold)
            epochs = [f"{float(value):.3f}" for value in run.history["val/balanced_accuracy"]]
            (hard,) = (name for name in ("train/ce", "train/classification", "train/combined") if name in run.history)
            loss = float(run.history[hard].iloc[run.metrics["best_epoch"] - 1])
            kept = [f"{loss:.3f}", f"{run.metrics['val/auroc_macro']:.3f}", str(run.test["prediction"].nunique())]
            lines.append([f"`{row}`", str(fold), *epochs, *kept])
    numbers = [f"epoch {number + 1}" for number in range(len(lines[0]) - 5)]
    return markdown(["row", "fold", *numbers, "cross-entropy", "AUROC", "classes"], lines)
