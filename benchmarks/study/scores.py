"""The study's metrics: those of every run, and the sensitivity for melanoma at a fixed specificity."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from skinkd.analysis.runs import Run
from skinkd.scoring.bootstrap import Resampled, align, draw_groups, resample
from skinkd.scoring.metrics import evaluate
from skinkd.scoring.predictions import Floats

METRICS = {
    "balanced_accuracy": "balanced accuracy",
    "auroc_macro": "AUROC",
    "accuracy": "accuracy",
    "ece": "ECE",
    "melanoma": "melanoma sensitivity",
}
BINS, SPECIFICITY, REPLICATES, LEVEL, SEED = 15, 0.9, 2000, 0.95, 0


def scores(run: Run) -> dict[str, float]:
    """The study's metrics of a run's test part."""
    values = evaluate(run.test, run.classes, calibration_bins=BINS)
    values["melanoma"] = sensitivity_at(run.test, "mel", SPECIFICITY)
    return {name: values[name] for name in METRICS}


def sensitivity_at(table: pd.DataFrame, name: str, specificity: float) -> float:
    """The sensitivity for a class at the lowest threshold of its probability that has at least this specificity.

    The threshold is the test part's own, without interpolation; a probability above it counts as positive.
    """
    score, positive = table[f"p_{name}"].to_numpy(dtype=np.float64), (table["label"] == name).to_numpy()
    return float(weighted_sensitivity(score, positive, np.ones((1, len(score))), specificity)[0])


def weighted_sensitivity(score: Floats, positive: np.ndarray, weights: Floats, specificity: float) -> Floats:
    """Sensitivity at a specificity for each weighting of the images.

    Args:
        score: of N images.
        positive: whether an image is of the class, (N,).
        weights: how often each image counts, (R, N), whole numbers.
        specificity: the least specificity.

    Returns:
        (R,); NaN where no positive or no negative image counts.
    """
    order = np.argsort(score, kind="stable")
    score, positive, weights = score[order], positive[order], weights[:, order]
    negatives = np.cumsum(weights * ~positive, axis=1)
    # the first image, in rising order, up to whose score enough negatives are called negative
    at = (negatives >= specificity * negatives[:, -1:] - 1e-9).argmax(axis=1)
    above = np.searchsorted(score, score[at], side="right")  # images of equal score are not above
    positives = np.pad(np.cumsum(weights * positive, axis=1), ((0, 0), (1, 0)))
    total = positives[:, -1]
    found = total - positives[np.arange(len(weights)), above]
    with np.errstate(invalid="ignore"):
        return np.where(negatives[:, -1] > 0, found / total, np.nan)


def resampled(runs: Sequence[Run]) -> Resampled:
    """Every metric of the runs' test parts in replicates of the lesions, the sensitivity for melanoma among them."""
    tables, classes = [run.test for run in runs], runs[0].classes
    found = resample(tables, classes, replicates=REPLICATES, seed=SEED, calibration_bins=BINS)
    aligned, lesions = align(tables, classes)
    counts = draw_groups(lesions, REPLICATES, np.random.default_rng(SEED))
    melanoma = classes.index("mel")
    observed, drawn = [], []
    for run in aligned:
        score, positive = run.scores.probability[:, melanoma], run.scores.label == melanoma
        images = run.lesions[run.scores.group]
        once = np.ones((1, len(score)))
        observed.append(weighted_sensitivity(score, positive, once, SPECIFICITY)[0])
        parts = [
            weighted_sensitivity(score, positive, part[:, images], SPECIFICITY) for part in np.array_split(counts, 20)
        ]
        drawn.append(np.concatenate(parts))
    return Resampled(
        found.runs,
        found.observed | {"melanoma": np.array(observed)},
        found.drawn | {"melanoma": np.stack(drawn, axis=1)},
    )
