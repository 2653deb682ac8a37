"""Whether methods differ: intervals and tests that are paired by image and resampled, or clustered, by lesion.

A method is a sequence of prediction tables (see :mod:`skinkd.scoring.metrics`), one for each of its runs. Runs of several seeds
share one test set; runs of several folds have one each. Everywhere the unit of chance is the lesion, by its name, in
whichever tables it appears. What is said is of these trained networks on other lesions: the spread between seeds is
reported beside it, as a standard deviation, and is in no interval and no p-value.

By simulation at 1,120 lesions in HAM10000's proportions, of which the rarest class has eleven, all tests find a
difference between two equal networks in 3 to 5.5 % of cases at 5 %, and 95 % intervals cover the truth in 93 to 96 %, that
of ECE in 97 % (tests/analysis/test_simulation.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from skinkd.errors import UserError
from skinkd.scoring.bootstrap import CLASS_MEANS, Run, Widening, align, percentiles, resample
from skinkd.scoring.predictions import Floats

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Difference:
    """A method less its baseline, with interval and two-sided p-value; NaN where undefined.

    ``least`` is the smallest p that the test can give: above 0 where it counts draws.
    """

    value: float
    low: float
    high: float
    p: float
    least: float = 0.0


@dataclass(frozen=True)
class TestResult:
    """A test statistic and its two-sided p-value."""

    __test__ = False  # not a test of pytest's

    statistic: float
    p: float


def paired_bootstrap(
    tables: Sequence[pd.DataFrame],
    baseline: Sequence[pd.DataFrame],
    classes: Sequence[str],
    *,
    replicates: int,
    seed: int,
    level: float,
    calibration_bins: int,
) -> dict[str, Difference]:
    """Return the difference of every metric of ``bootstrap.weighted_metrics`` and of ``ece``, by name.

    The value is the mean over the method's runs less that over the baseline's, within each test set, and then the mean
    over test sets; so the numbers of runs may differ. A replicate draws the lesions of all tables once, and every run of
    both sides is weighed by the same draw. The interval is the middle ``level`` of the replicates, and p is twice the
    smaller of the shares of replicates at or below, and at or above, 0, each with the observed table counted in
    (Davison & Hinkley 1997, section 4.4: (1 + #)/(R + 1)), at most 1: p is below 1 − ``level`` where the interval leaves
    out 0, but for the counted-in table. The smallest possible p is 2/(R + 1). Of means over classes interval and p are
    those of ``bootstrap.Widening``, for the lesions of all test sets together, and the smallest possible p is larger.

    ``ece`` is raised by noise, and by resampling once more. In a difference the part that both sides share goes away; the
    rest is taken from the replicates by shifting them to have the observed difference as their mean (ours).

    Args:
        tables: the method's prediction tables.
        baseline: the baseline's, on the same test sets.
        classes: the K class names.
        replicates: number of resampled tables, R.
        seed: of the draws.
        level: confidence, between 0 and 1.
        calibration_bins: as in ``metrics.evaluate``.

    Raises:
        UserError: the test sets of the two sides differ, or one image has two labels or lesions.
    """
    runs, lesions = align([*tables, *baseline], classes)
    weight = _paired_weights(runs, len(tables))
    observed, drawn = resample(
        runs, lesions, weight, replicates=replicates, seed=seed, calibration_bins=calibration_bins
    )
    drawn.pop("shift")
    drawn["ece"] += observed["ece"] - drawn["ece"].mean()
    widening = Widening.of((run.lesions[run.scores.group], run.scores.label) for run in runs)
    result = {}
    for name, column in drawn.items():
        defined = column[~np.isnan(column)]
        defined[np.abs(defined) < _ROUNDING] = 0  # equal scores are no difference, however they were added up
        if len(defined) and np.isfinite(observed[name]):
            low, high = percentiles({name: defined}, level, widening)[name]
            beyond = min((defined <= 0).sum(), (defined >= 0).sum())
            tails = [(1 + number) / (1 + len(defined)) for number in (beyond, 0)]
            p, least = (widening.p(tail) if name in CLASS_MEANS else min(1.0, 2 * tail) for tail in tails)
            result[name] = Difference(observed[name], low, high, float(p), float(least))
    return result


def mcnemar(tables: Sequence[pd.DataFrame], baseline: Sequence[pd.DataFrame], classes: Sequence[str]) -> TestResult:
    """Return the test of equal accuracy on the same images, clustered by lesion; the statistic is chi-squared, 1 df.

    With d_j what lesion j's images were predicted right more often by the method than by the baseline, the statistic is
    (Σ d_j)² / Σ d_j²: Obuchowski's (1998, Statistics in Medicine 17:1495) without its factor 1 − 1/(number of lesions),
    so that it is McNemar's (1947), without continuity correction, where each lesion has one image. With several runs an
    image counts by its share of runs that were right. Where the two sides agree on each lesion the statistic is 0.

    Raises:
        UserError: as ``paired_bootstrap``.
    """
    runs, lesions = align([*tables, *baseline], classes)
    difference = np.zeros(lesions)
    for run, weight in zip(runs, _paired_weights(runs, len(tables)), strict=True):
        right = (run.scores.prediction == run.scores.label).astype(np.float64)
        difference[run.lesions] += weight * np.bincount(run.scores.group, weights=right)
    difference[np.abs(difference) < _ROUNDING] = 0  # shares of runs do not add up to exactly 0
    square = (difference**2).sum()
    statistic = float(difference.sum() ** 2 / square) if square else 0.0
    return TestResult(statistic, float(chi2.sf(statistic, 1)))


def delong(
    tables: Sequence[pd.DataFrame], baseline: Sequence[pd.DataFrame], classes: Sequence[str], *, level: float
) -> Difference:
    """Return the difference of macro AUROC, its normal interval and p-value.

    The value is the one of ``paired_bootstrap``. Its variance is that of DeLong et al. (1988, Biometrics 44:837), with
    the components summed over each lesion (Obuchowski 1997, Biometrics 53:567): a positive image's share of negatives
    scored below it, and a negative's share of positives above it. They are averaged over runs and over the one-against-
    rest problems of the present classes (ours), which their covariances enter: with two classes, one run a side and one
    image a lesion it is DeLong's test. A class of one lesion has no variance to estimate: low, high and p are then NaN,
    and the value too where no AUROC is defined. Without any variance p is 1 if the value is 0, else 0.

    Raises:
        UserError: as ``paired_bootstrap``.
    """
    runs, lesions = align([*tables, *baseline], classes)
    value = 0.0
    parts: dict[tuple[int, bytes], Floats] = {}  # each sample's sums, and whether it has the lesion, (2, lesions)
    for run, weight in zip(runs, _paired_weights(runs, len(tables)), strict=True):
        present = np.unique(run.scores.label)
        if len(present) < 2:
            return Difference(np.nan, np.nan, np.nan, np.nan)
        for k in present:
            positive = run.scores.label == k
            area, component = _placements(run.scores.probability[:, k], positive)
            value += weight / len(present) * area
            # both sides score the same images: their components are of one sample, and add up
            for of_class in (positive, ~positive):
                sample = (run.test_set, of_class.tobytes())
                sums = np.bincount(run.scores.group[of_class], weights=component[of_class], minlength=len(run.lesions))
                part = parts.setdefault(sample, np.zeros((2, lesions)))
                part[0, run.lesions] += weight / len(present) * sums
                part[1, run.lesions] = np.bincount(run.scores.group[of_class], minlength=len(run.lesions)) > 0
    component, member = np.stack(list(parts.values()), axis=1)
    number = member.sum(axis=1)
    if (number < 2).any():
        return Difference(value, np.nan, np.nan, np.nan)
    # Obuchowski's factors: of one sample n/(n − 1) with its own lesions, of two samples with all lesions
    factor = np.full((len(number), len(number)), lesions / (lesions - 1))
    np.fill_diagonal(factor, number / (number - 1))
    error = float(np.sqrt(max(0.0, (factor * (component @ component.T)).sum())))
    half = float(norm.ppf((1 + level) / 2)) * error
    if error < _ROUNDING:
        return Difference(value, value, value, float(abs(value) < _ROUNDING))
    return Difference(value, value - half, value + half, float(2 * norm.sf(abs(value) / error)))


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm 1979), in the given order; a NaN stays one and does not count."""
    values = np.asarray(p, dtype=np.float64)
    defined = np.flatnonzero(~np.isnan(values))
    order = defined[np.argsort(values[defined], kind="stable")]
    result = np.full(len(values), np.nan)
    result[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)))
    return result.tolist()


def _paired_weights(runs: Sequence[Run], first: int) -> list[float]:
    """Return for each run its part in the difference: the ``first`` ones add, the others are taken away.

    Raises:
        UserError: the two sides have not the same test sets.
    """
    sides = [[run.test_set for run in runs[:first]], [run.test_set for run in runs[first:]]]
    if set(sides[0]) != set(sides[1]):
        raise UserError(
            f"the method's {len(sides[0])} runs and the baseline's {len(sides[1])} were not scored on the same images, so "
            "that nothing pairs them; compare runs of the same data, split and folds"
        )
    number = len(set(sides[0]))
    return [sign / number / side.count(one) for sign, side in zip((1, -1), sides, strict=True) for one in side]


def _placements(score: Floats, positive: NDArray[np.bool_]) -> tuple[float, Floats]:
    """Return the AUROC of one class against the rest, and what each image adds to its deviation from the truth, (N,).

    That is, over M positives and N negatives with scores x and y, (V10(x) − AUROC)/M of a positive and
    (V01(y) − AUROC)/N of a negative; ties count half.
    """
    own, rest = np.sort(score[positive]), np.sort(score[~positive])
    result = np.empty(len(score))
    below = [np.searchsorted(rest, score[positive], side=side) for side in ("left", "right")]
    above = [np.searchsorted(own, score[~positive], side=side) for side in ("left", "right")]
    result[positive] = (below[0] + below[1]) / (2 * len(rest))
    result[~positive] = 1 - (above[0] + above[1]) / (2 * len(own))
    area = float(result[positive].mean())
    result -= area
    result[positive] /= len(own)
    result[~positive] /= len(rest)
    return area, result
