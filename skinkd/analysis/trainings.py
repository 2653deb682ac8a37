"""Intervals for training again, on other lesions: trainings and lesions are both samples.

The interval of the paired bootstrap holds for these trained networks. Whether a method helps is a question about trainings
that nobody has run yet. Readers and cases in radiology pose the same problem: few readers (here trainings), many cases (here
lesions), each reader reads each case. We use the solution of that field: the variance of Obuchowski and Rockette (1995,
Communications in Statistics 24:285) for a single difference, with covariances by resampling cases, and the degrees of freedom
of Hillis (2007, Statistics in Medicine 26:596), with a term for the lesions (ours).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from skinkd.scoring.bootstrap import CLASS_MEANS, Resampled
from skinkd.scoring.predictions import Floats
from skinkd.scoring.widening import Widening

_ROUNDING = 1e-12

Place = tuple[int, int]
"""Fold and seed of a run; -1 is no fold."""


@dataclass(frozen=True)
class OverTrainings:
    """A mean over trainings: interval for new trainings and lesions, and the p-value of the mean being 0.

    Attributes:
        value: the mean.
        low: lower end of the interval.
        high: upper end.
        p: two-sided.
        trainings: number of trainings.
    """

    value: float
    low: float
    high: float
    p: float
    trainings: int


def trainings(places: Sequence[Place]) -> list[list[int]]:
    """Return the runs of each training, as numbers of ``places``: the runs of a fold if there are several folds, else each run.

    The seeds of one fold share its training images, so they are no independent trainings, and their mean counts once.
    """
    folds = sorted({fold for fold, _ in places})
    if len(folds) == 1:
        return [[run] for run in range(len(places))]
    return [[run for run, (fold, _) in enumerate(places) if fold == of] for of in folds]


def over_trainings(values: Floats, drawn: Floats, *, level: float, widening: Widening) -> OverTrainings:
    """Return the interval of a mean over trainings that holds for new trainings and new lesions.

    With n trainings, values d_i of variance s², and c_ij the covariance of d_i and d_j over the replicates, the variance of
    the mean is V = s²/n + C, where C is the mean of c_ij over i ≠ j, at least 0: the lesions that trainings share. The
    interval is Student's with V²/((s²/n)²/(n − 1) + C²/df) degrees of freedom, where df is that of ``widening``. It is
    at least as wide as the interval for these trainings, of variance Σ c_ij / n² (ours): by chance a few trainings may
    differ less than their lesions alone make them differ.

    Args:
        values: the value of each training, (n,), n at least 2.
        drawn: the same in each replicate of the lesions, (R, n); replicates with NaN do not count.
        level: confidence, between 0 and 1.
        widening: of a mean over classes; its factor scales the covariances.
    """
    n, value = len(values), float(values.mean())
    covariance = np.cov(drawn[~np.isnan(drawn).any(axis=1)], rowvar=False) * widening.factor**2
    own = float(values.var(ddof=1)) / n
    shared = max(0.0, float(covariance.sum() - np.trace(covariance)) / (n * (n - 1)))
    these = float(covariance.sum()) / n**2
    if max(own, these) < _ROUNDING**2:
        return OverTrainings(value, value, value, float(abs(value) < _ROUNDING), n)
    error = np.sqrt(np.maximum([own + shared, these], np.finfo(float).tiny))  # either may be 0
    uncertain = own**2 / (n - 1) + shared**2 / widening.df  # 0 without spread between trainings and without widening
    df = np.array([(own + shared) ** 2 / uncertain if uncertain else np.inf, widening.df])
    half = float((t.isf((1 - level) / 2, df) * error).max())
    return OverTrainings(value, value - half, value + half, float(2 * t.sf(abs(value) / error, df).max()), n)


def mean_over_trainings(runs: Resampled, places: Sequence[Place], level: float) -> dict[str, OverTrainings]:
    """Return by metric the mean over a row's trainings, with its interval; {} for a single training.

    ``ece`` is left out: noise of the lesions raises it in every training alike, which no spread between trainings shows.

    Args:
        runs: the row's runs.
        places: fold and seed of each run.
        level: confidence, between 0 and 1.
    """
    weights = [[(run in one) / len(one) for run in range(len(places))] for one in trainings(places)]
    return {name: found for name, found in _of_trainings(runs, weights, level).items() if name != "ece"}


def difference_over_trainings(
    runs: Resampled, places: Sequence[Place], baseline: Sequence[Place], level: float
) -> dict[str, OverTrainings]:
    """Return by metric a method's mean minus its baseline's, with its interval over trainings.

    {} for a single training, and if the two sides have other folds or seeds.

    Args:
        runs: the method's runs, then its baseline's.
        places: fold and seed of each of the method's runs.
        baseline: the same of the baseline's runs.
        level: confidence, between 0 and 1.
    """
    if list(places) != list(baseline):
        return {}
    own = [[(run in one) / len(one) for run in range(len(places))] for one in trainings(places)]
    return _of_trainings(runs, [[*one, *(-weight for weight in one)] for one in own], level)


def _of_trainings(runs: Resampled, weights: Sequence[Sequence[float]], level: float) -> dict[str, OverTrainings]:
    """Return by metric the mean over trainings; the value of a training is the sum over runs by its weights."""
    if len(weights) < 2:
        return {}
    observed, drawn = zip(*(runs.weighted(one) for one in weights), strict=True)
    widening = runs.widening
    result = {}
    for name in runs.observed.keys() - {"shift"}:
        values = np.array([one[name] for one in observed])
        replicates = np.stack([one[name] for one in drawn], axis=1)
        if np.isfinite(values).all() and (~np.isnan(replicates).any(axis=1)).sum() > 1:
            wider = widening if name in CLASS_MEANS else Widening(1.0, np.inf)
            result[name] = over_trainings(values, replicates, level=level, widening=wider)
    return result
