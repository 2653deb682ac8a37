"""Intervals of the metrics, by resampling lesions with replacement, all replicates at once.

Images of one lesion resemble each other, so whole lesions are drawn (the cluster bootstrap: Davison & Hinkley
1997, Bootstrap Methods and their Application, section 3.8). A replicate is then a count for each lesion, and
every metric a function of sums of images weighted by the counts.

How well the intervals hold, by simulation at 1,200 lesions in HAM10000's proportions: accuracy, AUROC, Brier
score and loss near the nominal 95 %; ECE 95 to 99 %; means over classes of which one has a dozen lesions (F1,
average precision, balanced accuracy) 87 to 92 %: so few do not show the whole spread.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from skinkd.metrics import (
    Floats,
    Scores,
    as_scores,
    calibration_bin,
    calibration_gap,
    confidence,
    negative_log_likelihood,
    ranking,
    rates,
    squared_error,
)

_CELLS = 2_000_000  # replicates × images held at a time: 16 MB an array


def bootstrap_intervals(
    table: pd.DataFrame,
    classes: Sequence[str],
    *,
    calibration_bins: int,
    replicates: int,
    seed: int,
    level: float,
) -> dict[str, tuple[float, float]]:
    """Return (low, high) for every metric of ``metrics.evaluate`` but ``n`` and those of one class.

    Percentile intervals: the middle ``level`` of the replicates, each with the present-classes rule of its
    own. Not so for ``ece``: noise raises a sum of absolute values, and resampling raises it once more, so
    that the percentile interval misses the truth of a well calibrated network every time. With g the signed
    gaps of the bins and g* those of a replicate, |Σ|g| − Σ|true gap|| ≤ Σ|g − true gap| whatever the true
    gaps; so the lower bound is Σ|g| less the upper quantile of Σ|g* − g|, at least 0. The upper one is the
    basic bootstrap's, 2·Σ|g| less the lower quantile of Σ|g*|, at least Σ|g| (ours).

    The same set of rows and the same seed give the same result.

    Args:
        table: prediction table of N images.
        classes: the K class names.
        calibration_bins: as in ``metrics.evaluate``.
        replicates: number of resampled tables.
        seed: of the draws.
        level: confidence, between 0 and 1.
    """
    scores, rng = as_scores(table, classes), np.random.default_rng(seed)
    groups = int(scores.group.max()) + 1
    gaps = bin_gaps(scores, np.ones((1, groups)), calibration_bins)
    size = max(1, _CELLS // len(table))
    parts = []
    for start in range(0, replicates, size):
        weights = draw_groups(groups, min(size, replicates - start), rng)
        part = weighted_metrics(scores, weights)
        drawn = bin_gaps(scores, weights, calibration_bins)
        parts.append(part | {"ece": np.abs(drawn).sum(axis=1), "shift": np.abs(drawn - gaps).sum(axis=1)})
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    tails = [(1 - level) / 2, (1 + level) / 2]
    ece, least = np.abs(gaps).sum(), np.quantile(values.pop("ece"), tails[0])
    lowest = ece - np.quantile(values.pop("shift"), tails[1])
    result = {}
    for name, column in values.items():
        defined = column[~np.isnan(column)]
        if len(defined):
            low, high = np.quantile(defined, tails)
            result[name] = (float(low), float(high))
    return result | {"ece": (max(0.0, float(lowest)), float(max(ece, 2 * ece - least)))}


def draw_groups(groups: int, replicates: int, rng: np.random.Generator) -> Floats:
    """Return how often each of G groups was drawn in each of R replicates of G draws, (R, G)."""
    drawn = rng.integers(groups, size=(replicates, groups)) + groups * np.arange(replicates)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=replicates * groups)
    return counts.reshape(replicates, groups).astype(np.float64)


def weighted_metrics(scores: Scores, weights: Floats) -> dict[str, Floats]:
    """Return what ``metrics.evaluate`` does, for each weighting of the groups: (R,) each, NaN if undefined.

    All of it but ``ece``, ``n`` and the metrics of one class.

    Args:
        scores: N images in G groups.
        weights: how often each group counts, (R, G), whole numbers.
    """
    one_hot = np.eye(scores.probability.shape[1])
    label, prediction = one_hot[scores.label], one_hot[scores.prediction]
    columns = [label * prediction, label, prediction, squared_error(scores)[:, None]]
    columns.append(negative_log_likelihood(scores)[:, None])
    edges = np.cumsum([column.shape[1] for column in columns])[:-1]
    sums = weights @ _by_group(scores, np.hstack(columns))
    hits, labels, predictions, brier, loss = np.split(sums, edges, axis=1)
    n = labels.sum(axis=1)
    rate = rates(hits, labels, predictions)
    result = {"accuracy": hits.sum(axis=1) / n, "balanced_accuracy": _mean(rate["sensitivity"])}
    for name, values in (
        ("precision", rate["precision"]),
        ("recall", rate["sensitivity"]),
        ("f1", rate["f1"]),
    ):
        result[f"{name}_macro"] = _mean(values)
        result[f"{name}_weighted"] = np.nansum(values * labels, axis=1) / n
    result |= {f"{name}_macro": _mean(values) for name, values in ranking(scores, weights).items()}
    return result | {"brier": brier[:, 0] / n, "loss": loss[:, 0] / n}


def bin_gaps(scores: Scores, weights: Floats, bins: int) -> Floats:
    """Return for each weighting (R, G) the signed gaps (R, M) whose absolute values add up to the ECE.

    The gap of a bin is its accuracy less its mean confidence, times its share of the images.
    """
    member = np.eye(bins)[calibration_bin(confidence(scores), bins)]
    gap = member * calibration_gap(scores)[:, None]
    sums = weights @ _by_group(scores, np.hstack([gap, np.ones((len(gap), 1))]))
    return sums[:, :-1] / sums[:, -1:]


def _by_group(scores: Scores, columns: Floats) -> Floats:
    """Return the sums of the images' columns over each group, (N, C) to (G, C)."""
    total = np.zeros((int(scores.group.max()) + 1, columns.shape[1]))
    np.add.at(total, scores.group, columns)
    return total


def _mean(values: Floats) -> Floats:
    """Return the mean over the classes where it is defined, (R, K) to (R,)."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=1)
    total = np.where(defined, values, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
