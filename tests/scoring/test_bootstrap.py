"""Weighted metrics against tables with the rows really repeated, and intervals against what they promise."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from skinkd.scoring.bootstrap import CLASS_MEANS, bin_gaps, bootstrap_intervals, draw_groups, weighted_metrics
from skinkd.scoring.metrics import evaluate
from skinkd.scoring.predictions import as_scores, prediction_table
from skinkd.scoring.widening import Widening

BINS = 15


def names(k: int) -> list[str]:
    return [f"c{i}" for i in range(k)]


def make_table(label: np.ndarray, probability: np.ndarray, group: np.ndarray) -> pd.DataFrame:
    n = len(label)
    rows = pd.DataFrame(
        {
            "image_id": [f"im{i:06d}" for i in range(n)],
            "group": [f"g{g}" for g in group],
            "label": [f"c{y}" for y in label],
        }
    )
    return prediction_table(rows, np.arange(n), probability, names(probability.shape[1]))


def random_table(seed: int, n: int, k: int, groups: int, *, ties: bool = False) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    group = rng.integers(groups, size=n)
    label = rng.integers(k, size=groups)[group]
    raw = rng.integers(1, 4, size=(n, k)) if ties else rng.gamma(0.4, size=(n, k)) + 0.6 * np.eye(k)[label]
    return make_table(label, raw / raw.sum(axis=1, keepdims=True), group)


def repeated(table: pd.DataFrame, counts: np.ndarray) -> pd.DataFrame:
    """The table with the rows of each group, in order of their names, as often as drawn."""
    groups = sorted(set(table["group"]))
    parts = []
    for name, count in zip(groups, counts, strict=True):
        for copy in range(int(count)):
            part = table[table["group"] == name].copy()
            part["image_id"] = part["image_id"] + f"-{copy}"
            parts.append(part)
    return pd.concat(parts)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 8), st.integers(1, 15), st.booleans())
def test_a_weight_is_a_repeated_row(seed: int, n: int, k: int, groups: int, ties: bool) -> None:
    table = random_table(seed, n, k, groups, ties=ties)
    scores = as_scores(table, names(k))
    weights = draw_groups(int(scores.group.max()) + 1, 6, np.random.default_rng(seed))
    got, gaps = weighted_metrics(scores, weights), bin_gaps(scores, weights, BINS)
    for r in range(len(weights)):
        drawn = repeated(table, weights[r])
        want = evaluate(drawn, names(k), calibration_bins=BINS)
        assert np.abs(gaps[r]).sum() == pytest.approx(want.pop("ece"), abs=1e-12)
        for name, values in got.items():
            if name in want:
                assert values[r] == pytest.approx(want[name], rel=1e-12, abs=1e-12), name
            else:
                assert np.isnan(values[r]), name
        left = {name for name in want if "/" not in name} - got.keys()
        assert left - {"partial_auroc"} == {"n"}


def test_draws_are_of_whole_tables_and_uniform() -> None:
    counts = draw_groups(20, 5000, np.random.default_rng(0))
    assert (counts.sum(axis=1) == 20).all()
    # each group is Binomial(20, 1/20) in each replicate: mean 1, standard error of the mean 0.0138
    assert np.abs(counts.mean(axis=0) - 1).max() < 5 * 0.0138
    assert counts.var() == pytest.approx(0.95, abs=0.02)


def naive_intervals(table: pd.DataFrame, k: int, replicates: int, seed: int, level: float) -> dict[str, tuple]:
    """One resampled table after another."""
    groups = len(set(table["group"]))
    weights = draw_groups(groups, replicates, np.random.default_rng(seed))
    columns: dict[str, list[float]] = {}
    for r in range(replicates):
        drawn = repeated(table, weights[r])
        values = evaluate(drawn, names(k), calibration_bins=BINS)
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    wide = tail_of_class_means(table, level)
    return {name: ends(values, wide if name in OVER_CLASSES else (1 - level) / 2) for name, values in columns.items()}


OVER_CLASSES = [
    "balanced_accuracy",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "auroc_macro",
    "average_precision_macro",
]


def ends(values: list[float], tail: float) -> tuple[float, float]:
    return float(np.percentile(values, 100 * tail)), float(np.percentile(values, 100 * (1 - tail)))


def tail_of_class_means(table: pd.DataFrame, level: float) -> float:
    """Of a mean of means of n_k values with one spread: SciPy's t at Welch and Satterthwaite's df, as a normal tail."""
    n = [len(set(part["group"])) for _, part in table.groupby("label")]
    spread = [1 / size for size in n if size > 1]  # variance of each class's mean over that of one lesion
    unbiased = [1 / (size - 1) for size in n if size > 1]
    df = sum(spread) ** 2 / sum(one**2 / (1 / one - 1) for one in spread)
    half = stats.t(df).ppf((1 + level) / 2) * (sum(unbiased) / sum(spread)) ** 0.5
    return float(stats.norm.cdf(-half))


@pytest.mark.parametrize(("n", "k", "groups", "seed"), [(60, 3, 30, 0), (40, 7, 40, 1), (25, 2, 5, 2)])
def test_intervals_are_those_of_a_plain_loop(n: int, k: int, groups: int, seed: int) -> None:
    table = random_table(seed, n, k, groups)
    settings = {"calibration_bins": BINS, "replicates": 25, "seed": seed, "level": 0.9}
    got = bootstrap_intervals(table, names(k), **settings)
    want = naive_intervals(table, k, 25, seed, 0.9)
    assert (
        got.keys() == {name for name in want if "/" not in name} - {"n", "partial_auroc"}
        and set(OVER_CLASSES) == CLASS_MEANS
    )
    ece = evaluate(table, names(k), calibration_bins=BINS)["ece"]
    assert got["ece"][1] == pytest.approx(max(ece, 2 * ece - want["ece"][0]), abs=1e-12)
    assert 0 <= got["ece"][0] <= ece
    for name, bounds in got.items():
        if name != "ece":
            assert bounds == pytest.approx(want[name], rel=1e-12, abs=1e-12), name


def numbers(lesions_of_class: list[int], images: int = 1) -> list[tuple[np.ndarray, np.ndarray]]:
    """Lesion and label numbers of one table."""
    label = np.repeat(np.arange(len(lesions_of_class)), lesions_of_class)
    return [(np.repeat(np.arange(len(label)), images), np.repeat(label, images))]


@pytest.mark.parametrize(("k", "n"), [(1, 2), (2, 12), (7, 5)])
def test_equal_classes_are_widened_as_a_pooled_t(k: int, n: int) -> None:
    found = Widening.of(numbers([n] * k, images=3))
    assert found.factor == pytest.approx(np.sqrt(n / (n - 1)), rel=1e-12)
    assert found.df == pytest.approx(k * (n - 1), rel=1e-12)


def test_one_class_of_normal_values_has_the_exact_interval_of_student() -> None:
    """Quantiles of a normal bootstrap of the mean, sd s·√((n−1)/n)/√n, at the widened tails are SciPy's t interval."""
    values = np.random.default_rng(0).normal(size=9)
    n, tail = len(values), Widening.of(numbers([9])).tail(0.9)
    replicates = stats.norm(values.mean(), values.std(ddof=0) / np.sqrt(n))
    want = stats.t.interval(0.9, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert (replicates.ppf(tail), replicates.ppf(1 - tail)) == pytest.approx(want, rel=1e-12)
    p = Widening.of(numbers([9])).p(replicates.cdf(0.3) if values.mean() > 0.3 else replicates.sf(0.3))
    assert p == pytest.approx(stats.ttest_1samp(values, 0.3).pvalue, rel=1e-12)


def test_many_lesions_are_not_widened_and_single_ones_do_not_count() -> None:
    assert Widening.of(numbers([40_000, 60_000])).tail(0.95) == pytest.approx(0.025, rel=1e-3)
    assert Widening.of(numbers([30, 1, 12, 1])) == Widening.of(numbers([30, 12]))
    assert Widening.of(numbers([1, 1])).tail(0.95) == pytest.approx(0.025, rel=1e-12)
    lesions = numbers([5, 6])
    assert Widening.of(lesions * 3) == Widening.of(lesions)  # the same lesions in three runs


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=9), st.floats(0.5, 0.999), st.floats(1e-5, 1))
def test_p_is_below_one_minus_level_where_the_interval_leaves_out_zero(
    n: list[int], level: float, share: float
) -> None:
    found = Widening.of(numbers(n))
    assert found.factor >= 1 and found.tail(level) <= (1 - level) / 2 * (1 + 1e-9)
    assert 0 < found.p(share) <= 1
    assert (found.p(share) < 1 - level) == (share < found.tail(level)) or share == pytest.approx(found.tail(level))


def test_pieces_of_replicates_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    table = random_table(4, 50, 3, 30)
    settings = {"calibration_bins": BINS, "replicates": 37, "seed": 1, "level": 0.95}
    whole = bootstrap_intervals(table, names(3), **settings)
    monkeypatch.setattr("skinkd.scoring.bootstrap._CELLS", 250)
    pieces = bootstrap_intervals(table, names(3), **settings)
    assert whole.keys() == pieces.keys()
    for name in whole:
        assert whole[name] == pytest.approx(pieces[name], abs=1e-14), name


def test_rows_in_any_order_and_the_seed_decide() -> None:
    table = random_table(5, 80, 4, 50)
    settings = {"calibration_bins": BINS, "replicates": 50, "level": 0.95}
    first = bootstrap_intervals(table, names(4), seed=0, **settings)
    assert first == bootstrap_intervals(table.sample(frac=1, random_state=1), names(4), seed=0, **settings)
    assert first["accuracy"] != bootstrap_intervals(table, names(4), seed=1, **settings)["accuracy"]


def test_one_image_and_one_class_leave_out_the_undefined() -> None:
    table = make_table(np.array([1]), np.array([[0.2, 0.8]]), np.array([0]))
    got = bootstrap_intervals(table, names(2), calibration_bins=BINS, replicates=10, seed=0, level=0.95)
    assert "auroc_macro" not in got
    assert got["accuracy"] == (1.0, 1.0) and got["ece"] == (pytest.approx(0.2), pytest.approx(0.2))


def test_lesions_are_drawn_whole() -> None:
    """Ten photographs of each lesion say no more than one: the interval is as wide, not √10 narrower."""
    rng = np.random.default_rng(0)
    right = rng.random(200) < 0.7
    p = np.where(right[:, None], [0.2, 0.8], [0.8, 0.2])
    once = make_table(np.ones(200, dtype=int), p, np.arange(200))
    tenfold = make_table(np.ones(2000, dtype=int), p.repeat(10, axis=0), np.arange(200).repeat(10))
    settings = {"calibration_bins": BINS, "replicates": 2000, "level": 0.95}
    widths = [
        np.diff(bootstrap_intervals(table, names(2), seed=seed, **settings)["accuracy"])[0]
        for seed, table in enumerate((once, tenfold))
    ]
    assert widths[0] == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / 200), rel=0.1)
    assert widths[1] == pytest.approx(widths[0], rel=0.1)


@pytest.mark.slow  # tests/analysis/test_simulation.py has a quick one
@pytest.mark.parametrize("sharpness", [1.0, 1.5])
def test_nominal_intervals_hold_by_simulation(sharpness: float) -> None:
    """200 data sets of a network whose truth is known; 95 % ± 3 standard errors is 90.4 to 99.6 %."""
    rng = np.random.default_rng(11)

    def draw(lesions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        group = np.repeat(np.arange(lesions), rng.integers(1, 4, size=lesions))
        logits = rng.normal(size=(lesions, 3))[group] * 1.5
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        label = (rng.random(lesions)[group][:, None] > p.cumsum(axis=1)).sum(axis=1)  # calibrated
        p = p**sharpness  # and above 1, too sure
        return label, p / p.sum(axis=1, keepdims=True), group

    big = make_table(*draw(100_000))
    truth = evaluate(big, names(3), calibration_bins=BINS)
    held = dict.fromkeys(("accuracy", "f1_macro", "auroc_macro", "loss", "ece"), 0)
    for run in range(200):
        got = bootstrap_intervals(
            make_table(*draw(250)), names(3), calibration_bins=BINS, replicates=300, seed=run, level=0.95
        )
        for name in held:
            held[name] += got[name][0] <= truth[name] <= got[name][1]
    for name, count in held.items():
        assert count >= 0.904 * 200, (name, count)
        assert count <= 0.996 * 200 or name == "ece", (name, count)  # the bound of ECE is a safe one
