"""Intervals of the metrics, by resampling lesions with replacement, all replicates at once.

Images of one lesion resemble each other, so whole lesions are drawn (the cluster bootstrap: Davison & Hinkley
1997, Bootstrap Methods and their Application, section 3.8). A replicate is then a count for each lesion, and
every metric a function of sums of images weighted by the counts.

A class of a dozen lesions does not show its whole spread in its replicates. Means over classes, where such a
class weighs as much as any other, therefore get the wider intervals of ``Widening``.
tests/analysis/test_simulation.py measures how well all of this holds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm, t

from skinkd.scoring.metrics import (
    Floats,
    Ints,
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

CLASS_MEANS = frozenset(
    {"balanced_accuracy", *(f"{name}_macro" for name in ("precision", "recall", "f1", "auroc", "average_precision"))}
)
"""The metrics that are means over classes."""

_CELLS = 2_000_000  # replicates × images held at a time: 16 MB an array


@dataclass(frozen=True)
class Widening:
    """How much further out the quantiles of a mean over classes lie than those of its replicates.

    For a mean, the expanded percentile interval (Hesterberg 2015, The American Statistician 69:371, section 4.3):
    replicates of n draws have (n − 1)/n of the variance to estimate, and their normal quantiles stand where
    those of Student's t with n − 1 degrees of freedom ought to. For a mean over classes with n_k lesions each
    we take the same with Welch and Satterthwaite's degrees of freedom, the spread within all classes taken as
    equal (ours): factor² = Σ 1/(n_k − 1) / Σ 1/n_k and df = (Σ 1/n_k)² / Σ 1/(n_k² (n_k − 1)). A class of one
    lesion, whose spread nothing shows, does not count. With many lesions of each class nothing is widened.

    Attributes:
        factor: of the standard error, at least 1.
        df: degrees of freedom, infinite where no class has two lesions.
    """

    factor: float
    df: float

    @classmethod
    def of(cls, tables: Iterable[tuple[Ints, Ints]]) -> "Widening":
        """For images with these (lesion, label) numbers, in one or more tables; a lesion counts once."""
        pairs = np.unique(np.hstack([np.stack(table) for table in tables]), axis=1)
        n = np.bincount(pairs[1]).astype(np.float64)
        n = n[n > 1]
        if not len(n):
            return cls(1.0, np.inf)
        df = (1 / n).sum() ** 2 / (1 / (n**2 * (n - 1))).sum()
        return cls(float(np.sqrt((1 / (n - 1)).sum() / (1 / n).sum())), float(df))

    def tail(self, level: float) -> float:
        """Return the share of replicates to leave out at each end of an interval of confidence ``level``."""
        return float(norm.sf(self.factor * t.isf((1 - level) / 2, self.df)))

    def p(self, tail: float) -> float:
        """Return the two-sided p-value for a share of replicates; below 1 − level where below ``tail(level)``."""
        return float(min(1.0, 2 * t.sf(norm.isf(min(tail, 0.5)) / self.factor, self.df)))


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
    own, and somewhat more than the middle for means over classes (``Widening``). Not so for ``ece``: noise
    raises a sum of absolute values, and resampling raises it once more, so that the percentile interval misses
    the truth of a well calibrated network every time. With g the signed gaps of the bins and g* those of a
    replicate, |Σ|g| − Σ|true gap|| ≤ Σ|g − true gap| whatever the true gaps; so the lower bound is Σ|g| less
    the upper quantile of Σ|g* − g|, at least 0. The upper one is the basic bootstrap's, 2·Σ|g| less the lower
    quantile of Σ|g*|, at least Σ|g| (ours).

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
    widening = Widening.of([(scores.group, scores.label)])
    return percentiles(values, level, widening) | {"ece": (max(0.0, float(lowest)), float(max(ece, 2 * ece - least)))}


def percentiles(replicates: Mapping[str, Floats], level: float, widening: Widening) -> dict[str, tuple[float, float]]:
    """Return (low, high) of each metric's replicates, NaN left out; metrics without any are left out too."""
    result = {}
    for name, column in replicates.items():
        defined = column[~np.isnan(column)]
        tail = widening.tail(level) if name in CLASS_MEANS else (1 - level) / 2
        if len(defined):
            low, high = np.quantile(defined, [tail, 1 - tail])
            result[name] = (float(low), float(high))
    return result


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
