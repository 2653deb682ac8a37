"""Tests whether methods differ: intervals and p-values, paired by image and resampled or clustered by lesion.

A method is a sequence of prediction tables (see :mod:`skinkd.scoring.predictions`), one for each of its runs. Runs that
differ in their seed share a test set; each fold has a test set. The sampling unit is the lesion. A lesion has the same name
in all tables. The results hold for these trained networks on new lesions. The spread between seeds is not part of any
interval or p-value here; :mod:`skinkd.analysis.trainings` has intervals that include it.

In a simulation with 1,120 lesions in HAM10000's proportions, eleven of them in the rarest class, all tests at level 5 %
find a difference between two equal networks in 3 to 5.5 % of cases. 95 % intervals cover the truth in 93 to 96 % of cases,
and the interval of ECE in 97 % (tests/analysis/test_simulation.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from skinkd.errors import UserError
from skinkd.scoring.bootstrap import CLASS_MEANS, Resampled, Run, align, percentiles, resample
from skinkd.scoring.predictions import Floats

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Difference:
    """A method's metric minus its baseline's, with interval and two-sided p-value; NaN where undefined.

    ``least`` is the smallest p that the test can give. It is above 0 for a test that counts draws.
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

    The value is computed within each test set, as the mean over the method's runs minus the mean over the baseline's,
    and then averaged over test sets. So the numbers of runs may differ. A replicate draws the lesions of all tables once,
    and the same draw weights every run of both sides. The interval is the middle ``level`` of the replicates. p is twice
    the smaller of two shares, at most 1: the replicates at or below 0, and those at or above 0. Each share counts the
    observed table as a further replicate, (1 + #)/(R + 1) (Davison & Hinkley 1997, section 4.4). So the smallest possible p
    is 2/(R + 1), and apart from the further replicate, p is below 1 − ``level`` exactly if the interval leaves out 0. For
    means over classes, interval and p are widened by ``widening.Widening``, with the lesions of all test sets together;
    the smallest possible p is then larger.

    Noise raises ``ece``, and resampling raises it again. In a difference, the part that both sides share cancels. The rest
    is removed from the replicates: they are shifted so that their mean is the observed difference (ours).

    Args:
        tables: the method's prediction tables.
        baseline: the baseline's prediction tables, on the same test sets.
        classes: the K class names.
        replicates: number of resampled tables, R.
        seed: seed of the draws.
        level: confidence, between 0 and 1.
        calibration_bins: as in ``metrics.evaluate``.

    Raises:
        UserError: the test sets of the two sides differ, or an image has two labels or two lesions.
    """
    rules = {"replicates": replicates, "seed": seed, "calibration_bins": calibration_bins}
    return paired_differences(resample([*tables, *baseline], classes, **rules), len(tables), level)


def paired_differences(runs: Resampled, first: int, level: float) -> dict[str, Difference]:
    """Return what ``paired_bootstrap`` returns, for resampled runs: ``first`` runs of the method, then its baseline's."""
    observed, drawn = runs.weighted(paired_weights(runs.runs, first))
    drawn.pop("shift")
    drawn["ece"] += observed["ece"] - drawn["ece"].mean()
    widening = runs.widening
    result = {}
    for name, column in drawn.items():
        defined = column[~np.isnan(column)]
        defined[np.abs(defined) < _ROUNDING] = 0  # equal scores may differ by rounding
        if len(defined) and np.isfinite(observed[name]):
            low, high = percentiles({name: defined}, level, widening)[name]
            beyond = min((defined <= 0).sum(), (defined >= 0).sum())
            tails = [(1 + number) / (1 + len(defined)) for number in (beyond, 0)]
            p, least = (widening.p(tail) if name in CLASS_MEANS else min(1.0, 2 * tail) for tail in tails)
            result[name] = Difference(observed[name], low, high, float(p), float(least))
    return result


def mcnemar(tables: Sequence[pd.DataFrame], baseline: Sequence[pd.DataFrame], classes: Sequence[str]) -> TestResult:
    """Return the test of equal accuracy on the same images, clustered by lesion; the statistic is chi-squared, 1 df.

    Let d_j be the number of lesion j's images that the method predicts right minus the number that the baseline predicts
    right. The statistic is (Σ d_j)² / Σ d_j². It is Obuchowski's (1998, Statistics in Medicine 17:1495) without the factor
    1 − 1/(number of lesions). If each lesion has a single image, it is McNemar's (1947) without continuity correction.
    With several runs, an image counts by the share of runs that predict it right. If the two sides agree on each lesion,
    the statistic is 0.

    Raises:
        UserError: as ``paired_bootstrap``.
    """
    runs, lesions = align([*tables, *baseline], classes)
    difference = np.zeros(lesions)
    for run, weight in zip(runs, paired_weights(runs, len(tables)), strict=True):
        right = (run.scores.prediction == run.scores.label).astype(np.float64)
        difference[run.lesions] += weight * np.bincount(run.scores.group, weights=right)
    difference[np.abs(difference) < _ROUNDING] = 0  # because of rounding, shares of runs do not add up to exactly 0
    square = (difference**2).sum()
    statistic = float(difference.sum() ** 2 / square) if square else 0.0
    return TestResult(statistic, float(chi2.sf(statistic, 1)))


def delong(
    tables: Sequence[pd.DataFrame], baseline: Sequence[pd.DataFrame], classes: Sequence[str], *, level: float
) -> Difference:
    """Return the difference of macro AUROC, its normal interval and p-value.

    The value is that of ``paired_bootstrap``. Its variance is that of DeLong et al. (1988, Biometrics 44:837), with
    components summed over each lesion (Obuchowski 1997, Biometrics 53:567). The component of a positive image is the share
    of negatives that score below it; that of a negative image is the share of positives that score above it. Components are
    averaged over runs and over the one-against-rest problems of the present classes, with their covariances (ours). With
    two classes, one run on each side and one image for each lesion, this is DeLong's test. The variance of a class with a
    single lesion cannot be estimated: low, high and p are then NaN. If no AUROC is defined, the value is NaN too. If the
    variance is 0, p is 1 for a value of 0, else 0.

    Raises:
        UserError: as ``paired_bootstrap``.
    """
    runs, lesions = align([*tables, *baseline], classes)
    value = 0.0
    parts: dict[
        tuple[frozenset[str], bytes], Floats
    ] = {}  # for each sample: sums by lesion, and whether it has the lesion, (2, lesions)
    for run, weight in zip(runs, paired_weights(runs, len(tables)), strict=True):
        present = np.unique(run.scores.label)
        if len(present) < 2:
            return Difference(np.nan, np.nan, np.nan, np.nan)
        for k in present:
            positive = run.scores.label == k
            area, component = _placements(run.scores.probability[:, k], positive)
            value += weight / len(present) * area
            # both sides score the same images: their components belong to the same sample, and add up
            for images in (positive, ~positive):
                sample = (run.test_set, images.tobytes())
                sums = np.bincount(run.scores.group[images], weights=component[images], minlength=len(run.lesions))
                part = parts.setdefault(sample, np.zeros((2, lesions)))
                part[0, run.lesions] += weight / len(present) * sums
                part[1, run.lesions] = np.bincount(run.scores.group[images], minlength=len(run.lesions)) > 0
    component, member = np.stack(list(parts.values()), axis=1)
    number = member.sum(axis=1)
    if (number < 2).any():
        return Difference(value, np.nan, np.nan, np.nan)
    # Obuchowski's factors n/(n − 1): within a sample n is its number of lesions, between two samples that of all lesions
    factor = np.full((len(number), len(number)), lesions / (lesions - 1))
    np.fill_diagonal(factor, number / (number - 1))
    error = float(np.sqrt(max(0.0, (factor * (component @ component.T)).sum())))
    half = float(norm.ppf((1 + level) / 2)) * error
    if error < _ROUNDING:
        return Difference(value, value, value, float(abs(value) < _ROUNDING))
    return Difference(value, value - half, value + half, float(2 * norm.sf(abs(value) / error)))


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm 1979), in the given order; NaN stays NaN and does not count."""
    values = np.asarray(p, dtype=np.float64)
    defined = np.flatnonzero(~np.isnan(values))
    order = defined[np.argsort(values[defined], kind="stable")]
    result = np.full(len(values), np.nan)
    result[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)))
    return result.tolist()


def paired_weights(runs: Sequence[Run], first: int) -> list[float]:
    """Return the weight of each run in the difference: positive for the ``first`` runs, negative for the others.

    Raises:
        UserError: the test sets of the two sides differ.
    """
    sides = [[run.test_set for run in runs[:first]], [run.test_set for run in runs[first:]]]
    if set(sides[0]) != set(sides[1]):
        raise UserError(
            f"the method's {len(sides[0])} runs and the baseline's {len(sides[1])} were not scored on the same images, so "
            "they cannot be paired; compare runs of the same data, split and folds"
        )
    number = len(set(sides[0]))
    return [
        sign / number / side.count(test_set) for sign, side in zip((1, -1), sides, strict=True) for test_set in side
    ]


def _placements(score: Floats, positive: NDArray[np.bool_]) -> tuple[float, Floats]:
    """Return the AUROC of a class against the rest, and each image's contribution to its deviation from the truth, (N,).

    With M positives of score x and N negatives of score y, the contribution of a positive is (V10(x) − AUROC)/M, and
    that of a negative (V01(y) − AUROC)/N. Ties count half.
    """
    positives, negatives = np.sort(score[positive]), np.sort(score[~positive])
    result = np.empty(len(score))
    below = [np.searchsorted(negatives, score[positive], side=side) for side in ("left", "right")]
    above = [np.searchsorted(positives, score[~positive], side=side) for side in ("left", "right")]
    result[positive] = (below[0] + below[1]) / (2 * len(negatives))
    result[~positive] = 1 - (above[0] + above[1]) / (2 * len(positives))
    area = float(result[positive].mean())
    result -= area
    result[positive] /= len(positives)
    result[~positive] /= len(negatives)
    return area, result
