"""Intervals over trainings and lesions: against the formulas written as loops, SciPy, and data whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, t, ttest_1samp
from test_simulation import BINS, CLASSES, draw

from skinkd.analysis.trainings import (
    OverTrainings,
    difference_over_trainings,
    mean_over_trainings,
    over_trainings,
    trainings,
)
from skinkd.scoring.bootstrap import Resampled, intervals_of_mean, resample
from skinkd.scoring.widening import Widening

NO_WIDENING = Widening(1.0, np.inf)


def test_the_formulas_as_loops() -> None:
    rng = np.random.default_rng(0)
    values, drawn = rng.normal(size=4), rng.normal(size=(50, 1)) + 0.5 * rng.normal(size=(50, 4))
    n, mean = 4, sum(values) / 4
    own = sum((value - mean) ** 2 for value in values) / (n - 1) / n
    covariance = [[np.cov(drawn[:, i], drawn[:, j])[0, 1] for j in range(n)] for i in range(n)]
    shared = sum(covariance[i][j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    df = (own + shared) ** 2 / (own**2 / (n - 1))
    these = sum(map(sum, covariance)) / n**2
    errors = [(t.ppf(0.95, df), np.sqrt(own + shared)), (norm.ppf(0.95), np.sqrt(these))]
    found = over_trainings(values, drawn, level=0.9, widening=NO_WIDENING)
    assert found.value == pytest.approx(mean) and found.trainings == 4
    assert found.high - found.value == pytest.approx(max(quantile * error for quantile, error in errors))
    p = [2 * t.cdf(-abs(mean) / errors[0][1], df), 2 * norm.cdf(-abs(mean) / errors[1][1])]
    assert found.p == pytest.approx(max(p))
    wide = over_trainings(3 * values, drawn, level=0.9, widening=NO_WIDENING)
    df = (9 * own + shared) ** 2 / (81 * own**2 / (n - 1))
    assert wide.high - wide.value == pytest.approx(t.ppf(0.95, df) * np.sqrt(9 * own + shared))


def test_without_spread_between_lesions_it_is_students() -> None:
    values = np.array([0.1, 0.3, 0.2, 0.4, 0.25])
    found = over_trainings(values, np.tile(values, (9, 1)), level=0.95, widening=NO_WIDENING)
    student = ttest_1samp(values, 0)
    interval = student.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((interval.low, interval.high, student.pvalue))


@pytest.mark.filterwarnings("error")
def test_without_spread_between_trainings_it_is_the_normal_interval_of_the_lesions() -> None:
    rng = np.random.default_rng(1)
    drawn = np.tile(0.2 + rng.normal(size=(400, 1)), (1, 3))
    found = over_trainings(np.full(3, 0.2), drawn, level=0.95, widening=NO_WIDENING)
    assert found.high == pytest.approx(0.2 + norm.ppf(0.975) * drawn[:, 0].std(ddof=1))


@pytest.mark.filterwarnings("error")
def test_trainings_that_agree_where_their_lesions_do_not() -> None:
    """Equal values whose draws vary against each other: nothing is shared, and the interval is that of these trainings."""
    noise = np.random.default_rng(2).normal(size=(300, 1))
    drawn = 0.2 + np.hstack([noise, -0.5 * noise])
    found = over_trainings(np.full(2, 0.2), drawn, level=0.95, widening=NO_WIDENING)
    assert found.high == pytest.approx(0.2 + norm.ppf(0.975) * drawn.mean(axis=1).std(ddof=1))
    assert found.p == pytest.approx(2 * norm.sf(0.2 / drawn.mean(axis=1).std(ddof=1)))


@pytest.mark.filterwarnings("error")
def test_without_any_spread_it_is_the_value() -> None:
    for value, p in ((0.0, 1.0), (0.1, 0.0)):
        same = np.full((5, 2), value)
        assert over_trainings(same[0], same, level=0.95, widening=NO_WIDENING) == OverTrainings(
            value, value, value, p, 2
        )


@pytest.mark.parametrize(
    ("n", "training", "shared", "own"),
    [
        (3, 0.0, 1.0, 0.5),
        (3, 1.0, 1.0, 0.5),
        (5, 1.0, 1.0, 0.5),
        (5, 3.0, 1.0, 0.5),
        (5, 1.0, 0.0, 1.0),
        (5, 0.0, 0.0, 1.0),
    ],
)
def test_it_covers_new_trainings_on_new_lesions(n: int, training: float, shared: float, own: float) -> None:
    """Spreads of trainings, of the lesions that they share, and of a training's lesions alone; 1,000 repetitions, the Monte
    Carlo error is 0.7 points. With folds (no shared lesions) the interval may cover more than it says."""
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(1000):
        values = training * rng.normal(size=n) + shared * rng.normal() + own * rng.normal(size=n)
        drawn = values + shared * rng.normal(size=(100, 1)) + own * rng.normal(size=(100, n))
        found = over_trainings(values, drawn, level=0.95, widening=NO_WIDENING)
        assert (found.p < 0.05) == (not found.low <= 0 <= found.high)
        covered.append(found.low <= 0 <= found.high)
    assert 0.93 - 0.014 <= np.mean(covered) <= (0.97 if shared else 1) + 0.014


@pytest.mark.slow
def test_the_table_of_the_page_on_comparing() -> None:
    """Prints it; few trainings that differ more than lesions do are the known failure."""
    for training, shared, own in ((0, 1, 0.5), (0.3, 1, 0.5), (1, 1, 0.5), (3, 1, 0.5), (0, 0, 1), (1, 0, 1)):
        covered = [coverage(n, training, shared, own) for n in (2, 3, 5, 10)]
        print(training, "" if shared else "folds", *(f"{100 * share:.1f} %" for share in covered))
        assert min(covered) >= (0.87 if training > shared and shared else 0.935)


def coverage(n: int, training: float, shared: float, own: float) -> float:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(3000):
        values = training * rng.normal(size=n) + shared * rng.normal() + own * rng.normal(size=n)
        drawn = values + shared * rng.normal(size=(150, 1)) + own * rng.normal(size=(150, n))
        found = over_trainings(values, drawn, level=0.95, widening=NO_WIDENING)
        covered.append(found.low <= 0 <= found.high)
    return float(np.mean(covered))


def test_the_seeds_of_a_fold_are_one_training() -> None:
    assert trainings([(-1, 0), (-1, 1), (-1, 2)]) == [[0], [1], [2]]
    assert trainings([(0, 0), (0, 1), (1, 0), (1, 1)]) == [[0, 1], [2, 3]]


def tables(seed: int, number: int) -> list[pd.DataFrame]:
    return draw(np.random.default_rng(seed), 150, number)


def resampled(*parts: pd.DataFrame) -> Resampled:
    return resample(parts, CLASSES, replicates=60, seed=0, calibration_bins=BINS)


def test_a_difference_over_trainings() -> None:
    runs = resampled(*tables(0, 6))
    places = [(-1, 0), (-1, 1), (-1, 2)]
    found = difference_over_trainings(runs, places, places, 0.95)
    assert found.keys() == runs.observed.keys() - {"shift"}
    pairs = runs.observed["accuracy"][:3] - runs.observed["accuracy"][3:]
    drawn = runs.drawn["accuracy"][:, :3] - runs.drawn["accuracy"][:, 3:]
    assert found["accuracy"] == over_trainings(pairs, drawn, level=0.95, widening=NO_WIDENING)
    wide = over_trainings(
        runs.observed["auroc_macro"][:3] - runs.observed["auroc_macro"][3:],
        runs.drawn["auroc_macro"][:, :3] - runs.drawn["auroc_macro"][:, 3:],
        level=0.95,
        widening=runs.widening,
    )
    assert found["auroc_macro"] == wide
    assert difference_over_trainings(runs, places, [(-1, 0), (-1, 1), (-1, 3)], 0.95) == {}
    assert difference_over_trainings(resampled(*tables(0, 2)), places[:1], places[:1], 0.95) == {}


def test_a_mean_over_trainings_is_wider_than_over_lesions_alone() -> None:
    runs = resampled(*tables(1, 3))
    found = mean_over_trainings(runs, [(-1, 0), (-1, 1), (-1, 2)], 0.95)
    assert "ece" not in found
    for name in ("accuracy", "brier", "loss"):
        low, high = intervals_of_mean(runs, 0.95)[name]
        assert found[name].high - found[name].low > 0.95 * (high - low), name


def test_runs_that_are_joined_have_the_draws_of_runs_resampled_together() -> None:
    both, parts = tables(2, 2), [resampled(table) for table in tables(2, 2)]
    together, joined = resampled(*both), parts[0].joined(parts[1])
    for name in together.drawn:
        np.testing.assert_array_equal(together.drawn[name], joined.drawn[name])
        np.testing.assert_array_equal(together.observed[name], joined.observed[name])
