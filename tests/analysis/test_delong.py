"""McNemar's and DeLong's tests and Holm's procedure against plain loops, statsmodels and a published example."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from test_statistics import make_table, names, random_runs

from skinkd.analysis.statistics import Difference, delong, holm, mcnemar
from skinkd.scoring.metrics import evaluate

# DeLong, DeLong, Clarke-Pearson (1988): 49 patients, of whom SAS/STAT's example of PROC LOGISTIC, "Comparing Receiver
# Operating Characteristic Curves", gives the 43 without missing values: albumin, total protein, K-G score, outcome
OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
3.7 6.7 6 1   3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
4.0 6.6 6 0   3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
4.3 6.5 4 1   3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
2.9 5.7 9 0   2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""


# --- McNemar


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 80))
def test_mcnemar_of_single_images_is_statsmodels(seed: int, n: int) -> None:
    one, two = random_runs(seed, n, 3, 0, 2)
    right = [(table["prediction"] == table["label"]) for table in (one, two)]
    counts = pd.crosstab(right[0], right[1]).reindex(index=[False, True], columns=[False, True], fill_value=0)
    assume(counts.to_numpy()[0, 1] + counts.to_numpy()[1, 0] > 0)
    want = statsmodels_mcnemar(counts.to_numpy(), exact=False, correction=False)
    got = mcnemar([one], [two], names(3))
    assert (got.statistic, got.p) == pytest.approx((want.statistic, want.pvalue), rel=1e-9)


@pytest.mark.parametrize("runs", [1, 3])
def test_mcnemar_by_lesion_and_runs_is_a_plain_loop(runs: int) -> None:
    tables = random_runs(4, 120, 4, 50, 2 * runs)
    net: dict[str, int] = {}
    for one, two in zip(tables[:runs], tables[runs:], strict=True):
        for a, b in zip(one.itertuples(), two.itertuples(), strict=True):
            net[a.group] = net.get(a.group, 0) + (a.prediction == a.label) - (b.prediction == b.label)
    want = sum(net.values()) ** 2 / sum(d**2 for d in net.values())
    assert mcnemar(tables[:runs], tables[runs:], names(4)).statistic == pytest.approx(want, rel=1e-9)


def test_mcnemar_counts_ten_equal_photographs_once() -> None:
    one, two = random_runs(6, 90, 3, 0, 2)
    many = [pd.concat([t.assign(image_id=t["image_id"] + f"-{c}") for c in range(10)]) for t in (one, two)]
    assert mcnemar(many[:1], many[1:], names(3)).p == pytest.approx(mcnemar([one], [two], names(3)).p, rel=1e-9)


def test_mcnemar_where_nothing_differs() -> None:
    one = random_runs(7, 20, 2, 10, 1)
    assert (mcnemar(one, one, names(2)).statistic, mcnemar(one, one, names(2)).p) == (0, 1)


# --- DeLong


def kernel(x: float, y: float) -> float:
    return 1.0 if x > y else 0.5 if x == y else 0.0


def plain_delong(score: list[np.ndarray], positive: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """Difference of two AUROCs and its variance (Obuchowski 1997), image by image."""
    rows, columns = np.flatnonzero(positive), np.flatnonzero(~positive)
    m, n, ten, one, area = len(rows), len(columns), [], [], []
    for s in score:
        v10 = [np.mean([kernel(s[i], s[j]) for j in columns]) for i in rows]
        v01 = [np.mean([kernel(s[i], s[j]) for i in rows]) for j in columns]
        area.append(float(np.mean(v10)))
        ten.append({g: sum(v - area[-1] for v, i in zip(v10, rows, strict=True) if group[i] == g) for g in set(group)})
        one.append(
            {g: sum(v - area[-1] for v, j in zip(v01, columns, strict=True) if group[j] == g) for g in set(group)}
        )
    i10, i01, every = len(set(group[rows])), len(set(group[columns])), len(set(group))

    def covariance(r: int, s: int) -> float:
        s10 = i10 / (i10 - 1) / m * sum(ten[r][g] * ten[s][g] for g in set(group))
        s01 = i01 / (i01 - 1) / n * sum(one[r][g] * one[s][g] for g in set(group))
        s11 = every / (every - 1) * sum(ten[r][g] * one[s][g] + ten[s][g] * one[r][g] for g in set(group))
        return s10 / m + s01 / n + s11 / (m * n)

    return area[0] - area[1], covariance(0, 0) + covariance(1, 1) - 2 * covariance(0, 1)


@pytest.mark.parametrize(
    ("n", "lesions", "ties", "seed"),
    [(40, 0, False, 0), (60, 25, False, 1), (50, 12, True, 2), (30, 0, True, 3)],
)
def test_delong_of_two_classes_is_a_plain_double_loop(n: int, lesions: int, ties: bool, seed: int) -> None:
    one, two = random_runs(seed, n, 2, lesions, 2, ties=ties)
    positive, group = (one["label"] == "c1").to_numpy(), one["group"].to_numpy()
    # p_c0 = 1 − p_c1 up to rounding, which must not break ties
    for table in (one, two):
        table["p_c1"] = table["p_c1"].round(6)
        table["p_c0"] = (1 - table["p_c1"]).round(6)
    value, variance = plain_delong([one["p_c1"].to_numpy(), two["p_c1"].to_numpy()], positive, group)
    got = delong([one], [two], names(2), level=0.95)
    half = 1.959963984540054 * np.sqrt(variance)
    assert (got.value, got.low, got.high) == pytest.approx((value, value - half, value + half), abs=1e-12)
    assert got.p == pytest.approx(2 * norm.sf(abs(value) / np.sqrt(variance)), abs=1e-12)


def test_delong_of_the_published_example() -> None:
    """The areas, the errors of the differences to K-G, and of total protein the whole row.

    The data are SAS's; the numbers are the known results of this example to four digits, written down from memory, as the
    table of results was not at hand. ``plain_delong`` above is the independent proof.
    """
    data = np.array(OVARIAN.split(), dtype=float).reshape(-1, 4)
    positive = data[:, 3].astype(int)
    assert (len(data), positive.sum()) == (43, 31)

    def table(score: np.ndarray) -> pd.DataFrame:
        p = (score - score.min() + 1) / (np.ptp(score) + 2)
        return make_table(positive, np.stack([1 - p, p], axis=1).round(9), np.arange(len(p)))

    albumin, protein, kg = table(data[:, 0]), table(data[:, 1]), table(10 - data[:, 2])
    for one, reported in ((albumin, 0.7366), (kg, 0.7258), (protein, 0.6478)):
        assert evaluate(one, names(2), calibration_bins=10)["auroc_macro"] == pytest.approx(reported, abs=6e-5)
    first, second = (delong([one], [kg], names(2), level=0.95) for one in (albumin, protein))
    errors = [(one.high - one.low) / 2 / norm.ppf(0.975) for one in (first, second)]
    assert errors == pytest.approx([0.0953, 0.1046], abs=6e-5)
    assert (second.value, second.low, second.high) == pytest.approx((-0.0780, -0.2830, 0.1271), abs=6e-5)
    assert second.p == pytest.approx(0.4561, abs=6e-5)


@pytest.mark.parametrize(("k", "runs"), [(3, (1, 1)), (4, (2, 3))])
def test_macro_delong_is_the_infinitesimal_jackknife_of_the_area(k: int, runs: tuple[int, int]) -> None:
    """Its variance, but for n/(n − 1), is the sum of squared slopes of the difference in each lesion's weight."""
    tables = random_runs(9, 150, k, 90, sum(runs))
    got = delong(tables[: runs[0]], tables[runs[0] :], names(k), level=0.95)
    lesions, own = np.unique(tables[0]["group"], return_inverse=True)
    sign = [1 / runs[0]] * runs[0] + [-1 / runs[1]] * runs[1]
    pairs = []  # (weight in the difference, positives, negatives, kernel) of each table and class
    for part, table in zip(sign, tables, strict=True):
        for c in names(k):
            score, positive = table[f"p_{c}"].to_numpy(), (table["label"] == c).to_numpy()
            x, y = score[positive][:, None], score[~positive][None]
            pairs.append((part / k, positive, ~positive, (x > y) + (x == y) / 2))

    def difference(weight: np.ndarray) -> float:
        w = weight[own]
        return sum(part * (w[i] @ psi @ w[j]) / (w[i].sum() * w[j].sum()) for part, i, j, psi in pairs)

    assert got.value == pytest.approx(difference(np.ones(len(lesions))), abs=1e-12)
    steps = 1e-4 * np.eye(len(lesions))
    slopes = [(difference(1 + step) - difference(1 - step)) / 2e-4 for step in steps]
    error = np.sqrt(np.square(slopes).sum())
    got_error = (got.high - got.low) / (2 * norm.ppf(0.975))
    assert error < got_error < error * 1.05


def test_delong_where_it_is_undefined_or_without_variance() -> None:
    one_class = make_table(np.zeros(5, int), np.full((5, 2), 0.5), np.arange(5))
    assert np.isnan(delong([one_class], [one_class], names(2), level=0.95).value)
    label, group = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 3, 3])
    ranked = make_table(label, np.array([[0.9, 0.1]] * 3 + [[0.2, 0.8]] * 2), group)
    reverse = make_table(label, np.array([[0.1, 0.9]] * 3 + [[0.8, 0.2]] * 2), group)
    single = delong([ranked], [reverse], names(2), level=0.95)  # one lesion of c1
    assert single.value == 1 and np.isnan([single.low, single.high, single.p]).all()
    apart = [table.assign(group=[f"g{i}" for i in range(5)]) for table in (ranked, reverse)]
    assert delong(apart[:1], apart[1:], names(2), level=0.95) == Difference(1, 1, 1, 0)
    assert delong(apart[:1], apart[:1], names(2), level=0.95) == Difference(0, 0, 0, 1)


# --- Holm


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_holm_is_statsmodels(n: int) -> None:
    p = np.random.default_rng(n).random(n).round(1) ** 3  # with ties, zeros and ones
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist(), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float]) -> None:
    """Holm's own words: go through p from the smallest on, and stop at the first above level/(how many are left)."""
    adjusted = holm(p)
    order = sorted(range(len(p)), key=lambda i: p[i])
    assert all(adjusted[a] <= adjusted[b] for a, b in pairwise(order))
    for level in (0.01, 0.05, 0.3):
        going = True
        for step, i in enumerate(order):
            bound = p[i] * (len(p) - step)
            going = going and bound <= level
            assert (adjusted[i] <= level) == going


def test_holm_by_hand_and_with_gaps() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, float("nan"), 0.03]) == pytest.approx([0.02, float("nan"), 0.03], nan_ok=True)
    assert holm([]) == []
