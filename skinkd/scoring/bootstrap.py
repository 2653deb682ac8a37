"""Intervals of the metrics by resampling lesions with replacement, all replicates at once.

Images of one lesion resemble each other, so whole lesions are drawn (the cluster bootstrap: Davison & Hinkley
1997, Bootstrap Methods and their Application, section 3.8). A replicate is a count for each lesion, and every
metric is a function of sums over images, weighted by the counts.

The replicates of a class with a dozen lesions show only part of its spread. In a mean over classes such a class
weighs as much as any other, so means over classes get the wider intervals of :mod:`skinkd.scoring.widening`.
tests/analysis/test_simulation.py measures the coverage of the intervals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from skinkd.errors import UserError
from skinkd.scoring.metrics import (
    calibration_bin,
    calibration_gap,
    class_mean,
    confidence,
    count_metrics,
    negative_log_likelihood,
    ranking,
    squared_error,
)
from skinkd.scoring.predictions import Floats, Ints, Scores, as_scores
from skinkd.scoring.widening import Widening

CLASS_MEANS = frozenset(
    {"balanced_accuracy", *(f"{name}_macro" for name in ("precision", "recall", "f1", "auroc", "average_precision"))}
)
"""The metrics that are means over classes."""

_CELLS = 2_000_000  # replicates × images in memory at a time: 16 MB for each array


@dataclass(frozen=True)
class Run:
    """A prediction table, with its lesions numbered together with those of other tables.

    Attributes:
        scores: the table as arrays, with G groups (lesions).
        lesions: number of each group among the lesions of all tables, (G,).
        test_set: names of the images.
    """

    scores: Scores
    lesions: Ints
    test_set: frozenset[str]


@dataclass(frozen=True)
class Resampled:
    """Every metric of some runs, as observed and in replicates that draw the lesions of all runs together.

    Attributes:
        runs: the runs.
        observed: by metric, (runs,), NaN if undefined.
        drawn: by metric, (replicates, runs), NaN if undefined. ``shift`` is the sum of |gap* − gap| over the bins of
            ``bin_gaps``.
    """

    runs: tuple[Run, ...]
    observed: dict[str, Floats]
    drawn: dict[str, Floats]

    @property
    def widening(self) -> Widening:
        """The widening of a mean over classes, with the lesions of all runs together."""
        return Widening.of((run.lesions[run.scores.group], run.scores.label) for run in self.runs)

    def joined(self, other: "Resampled") -> "Resampled":
        """Return the runs of both; they must have been resampled alike, with the same lesions and seed."""
        return Resampled(
            self.runs + other.runs,
            {name: np.append(values, other.observed[name]) for name, values in self.observed.items()},
            {name: np.hstack([values, other.drawn[name]]) for name, values in self.drawn.items()},
        )

    def weighted(self, weights: Sequence[float]) -> tuple[dict[str, float], dict[str, Floats]]:
        """Return by metric the weighted sum over runs: as observed, and in each replicate, (replicates,).

        A run of weight 0 does not count, even if it is NaN.
        """
        observed = {name: float(_weighted_sum(values, weights)) for name, values in self.observed.items()}
        return observed, {name: _weighted_sum(values, weights) for name, values in self.drawn.items()}


def _weighted_sum(values: Floats, weights: Sequence[float]) -> Floats:
    total = np.zeros(values.shape[:-1])
    for run, weight in enumerate(weights):
        if weight:
            total = total + weight * values[..., run]
    return total


def bootstrap_intervals(
    table: pd.DataFrame,
    classes: Sequence[str],
    *,
    calibration_bins: int,
    replicates: int,
    seed: int,
    level: float,
) -> dict[str, tuple[float, float]]:
    """Return (low, high) of the metrics of ``metrics.evaluate``.

    ``n``, ``partial_auroc`` and the metrics of a single class have none. These are percentile intervals: the middle
    ``level`` of the replicates, a wider part for means over classes (``Widening``). The present-classes rule holds in
    each replicate.

    ``ece`` needs another interval. Noise raises a sum of absolute values, and resampling raises it again, so for
    a well calibrated network the percentile interval would always miss the truth. Let g be the signed gaps of
    the bins and g* those of a replicate. |Σ|g| − Σ|true gap|| ≤ Σ|g − true gap| for any true gaps. So the lower
    bound is Σ|g| minus the upper quantile of Σ|g* − g|, at least 0. The upper bound is that of the basic
    bootstrap, 2·Σ|g| minus the lower quantile of Σ|g*|, at least Σ|g| (ours).

    The result depends only on the set of rows and the seed, not on the order of the rows.

    Args:
        table: prediction table of N images.
        classes: the K class names.
        calibration_bins: as in ``metrics.evaluate``.
        replicates: number of resampled tables.
        seed: seed of the draws.
        level: confidence, between 0 and 1.
    """
    return mean_intervals(
        [table], classes, calibration_bins=calibration_bins, replicates=replicates, seed=seed, level=level
    )


def intervals_of_test(
    table: pd.DataFrame, classes: Sequence[str], settings: Mapping[str, Any], *, seed: int
) -> dict[str, float]:
    """Return the intervals of a test part as metrics.json has them: ``test/<name>_low`` and ``test/<name>_high``.

    Args:
        table: prediction table of the test part.
        classes: the K class names.
        settings: ``evaluation`` of the configuration: ``bootstrap_replicates``, ``interval`` and ``calibration_bins``.
        seed: seed of the draws.
    """
    intervals = bootstrap_intervals(
        table,
        classes,
        calibration_bins=settings["calibration_bins"],
        replicates=settings["bootstrap_replicates"],
        seed=seed,
        level=settings["interval"],
    )
    bounds: dict[str, float] = {}
    for name, (low, high) in intervals.items():
        bounds |= {f"test/{name}_low": low, f"test/{name}_high": high}
    return bounds


def mean_intervals(
    tables: Sequence[pd.DataFrame],
    classes: Sequence[str],
    *,
    replicates: int,
    seed: int,
    level: float,
    calibration_bins: int,
) -> dict[str, tuple[float, float]]:
    """Return by name (low, high) of the mean over runs of every metric, by resampling lesions.

    The rules are those of ``bootstrap_intervals``, which is the case of a single run. The bound of ``ece`` holds for means
    over runs too: |mean Σ|g| − mean Σ|true gap|| ≤ mean Σ|g − true gap|.

    Args:
        tables: the runs' prediction tables, on one or more test sets.
        classes: the K class names.
        replicates: number of resampled tables.
        seed: seed of the draws.
        level: confidence, between 0 and 1.
        calibration_bins: as in ``metrics.evaluate``.

    Raises:
        UserError: an image has two labels or two lesions.
    """
    rules = {"replicates": replicates, "seed": seed, "calibration_bins": calibration_bins}
    return intervals_of_mean(resample(tables, classes, **rules), level)


def intervals_of_mean(runs: Resampled, level: float) -> dict[str, tuple[float, float]]:
    """Return what ``mean_intervals`` returns, for runs that have been resampled."""
    observed, drawn = runs.weighted([1 / len(runs.runs)] * len(runs.runs))
    ece, least = observed["ece"], float(np.quantile(drawn.pop("ece"), (1 - level) / 2))
    lowest = ece - float(np.quantile(drawn.pop("shift"), (1 + level) / 2))
    return percentiles(drawn, level, runs.widening) | {"ece": (max(0.0, lowest), max(ece, 2 * ece - least))}


def align(tables: Sequence[pd.DataFrame], classes: Sequence[str]) -> tuple[list[Run], int]:
    """Return the tables as arrays with common numbers of lesions, and the number of lesions in all tables."""
    if not tables:
        raise ValueError("a method needs at least one prediction table")
    images = pd.concat([table[["image_id", "label", "group"]] for table in tables]).astype(str).drop_duplicates()
    twice = images["image_id"].duplicated()
    if twice.any():
        raise UserError(
            f"image {images.loc[twice, 'image_id'].iloc[0]} has different labels or lesions in two runs; "
            "compare runs of the same data"
        )
    names = np.unique(images["group"].to_numpy(dtype=str))
    runs = []
    for table in tables:
        lesions = np.searchsorted(names, np.unique(table["group"].to_numpy(dtype=str)))
        runs.append(Run(as_scores(table, classes), lesions, frozenset(table["image_id"].to_numpy(dtype=object))))
    return runs, len(names)


def resample(
    tables: Sequence[pd.DataFrame], classes: Sequence[str], *, replicates: int, seed: int, calibration_bins: int
) -> Resampled:
    """Return every metric of each run in replicates of the lesions: a replicate draws the lesions of all tables once.

    Args:
        tables: the runs' prediction tables, on one or more test sets.
        classes: the K class names.
        replicates: number of resampled tables.
        seed: seed of the draws.
        calibration_bins: as in ``metrics.evaluate``.

    Raises:
        UserError: an image has two labels or two lesions.
    """
    runs, lesions = align(tables, classes)
    rng = np.random.default_rng(seed)
    once = np.ones((1, lesions))
    gaps = [bin_gaps(run.scores, once[:, run.lesions], calibration_bins) for run in runs]
    size = max(1, _CELLS // max(len(run.scores.label) for run in runs))
    pieces = (draw_groups(lesions, min(size, replicates - start), rng) for start in range(0, replicates, size))
    parts = []
    for counts in chain([once], pieces):
        columns: dict[str, list[Floats]] = {}
        for run, gap in zip(runs, gaps, strict=True):
            # the memory layout of take keeps sums the same to the last bit
            drawn_counts = np.take(counts, run.lesions, axis=1)
            # a replicate may hold no lesion of a small test set among several
            with np.errstate(invalid="ignore"):
                values = weighted_metrics(run.scores, drawn_counts)
                drawn = bin_gaps(run.scores, drawn_counts, calibration_bins)
            values |= {"ece": np.abs(drawn).sum(axis=1), "shift": np.abs(drawn - gap).sum(axis=1)}
            for name, column in values.items():
                columns.setdefault(name, []).append(column)
        parts.append({name: np.stack(of_runs, axis=1) for name, of_runs in columns.items()})
    observed = {name: values[0] for name, values in parts[0].items()}
    return Resampled(tuple(runs), observed, {name: np.concatenate([p[name] for p in parts[1:]]) for name in observed})


def percentiles(replicates: Mapping[str, Floats], level: float, widening: Widening) -> dict[str, tuple[float, float]]:
    """Return (low, high) of each metric's replicates without NaN; a metric with only NaN is left out."""
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
    """Return the metrics of ``metrics.evaluate`` for each weighting of the groups: (R,) each, NaN if undefined.

    ``ece``, ``n``, ``partial_auroc`` and the metrics of a single class are not among them.

    Args:
        scores: N images in G groups.
        weights: how often each group counts, (R, G), whole numbers.
    """
    one_hot = np.eye(scores.probability.shape[1])
    label, prediction = one_hot[scores.label], one_hot[scores.prediction]
    columns = [label * prediction, label, prediction, squared_error(scores)[:, None]]
    columns.append(negative_log_likelihood(scores)[:, None])
    edges = np.cumsum([column.shape[1] for column in columns])[:-1]
    sums = weights @ group_sums(scores, np.hstack(columns))
    hits, labels, predictions, brier, loss = np.split(sums, edges, axis=1)
    n = labels.sum(axis=1)
    result = count_metrics(hits, labels, predictions)
    result |= {f"{name}_macro": class_mean(values) for name, values in ranking(scores, weights).items()}
    return result | {"brier": brier[:, 0] / n, "loss": loss[:, 0] / n}


def bin_gaps(scores: Scores, weights: Floats, bins: int) -> Floats:
    """Return for each weighting (R, G) the signed gaps of the bins, (R, M); their absolute values add up to the ECE.

    The gap of a bin is its accuracy minus its mean confidence, times its share of the images.
    """
    member = np.eye(bins)[calibration_bin(confidence(scores), bins)]
    gap = member * calibration_gap(scores)[:, None]
    sums = weights @ group_sums(scores, np.hstack([gap, np.ones((len(gap), 1))]))
    return sums[:, :-1] / sums[:, -1:]


def group_sums(scores: Scores, columns: Floats) -> Floats:
    """Return the sums of the images' columns over each group, (N, C) to (G, C)."""
    total = np.zeros((int(scores.group.max()) + 1, columns.shape[1]))
    np.add.at(total, scores.group, columns)
    return total
