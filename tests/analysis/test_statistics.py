"""Paired tests and intervals against plain loops, SciPy and scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, roc_auc_score

from skinkd.analysis.statistics import Difference, delong, mcnemar, paired_bootstrap
from skinkd.errors import UserError
from skinkd.scoring.bootstrap import CLASS_MEANS, bootstrap_intervals, draw_groups, mean_intervals
from skinkd.scoring.metrics import evaluate
from skinkd.scoring.predictions import probability_columns
from skinkd.scoring.widening import Widening

RULES = {"replicates": 60, "seed": 3, "level": 0.9, "calibration_bins": 10}


def names(k: int) -> list[str]:
    return [f"c{i}" for i in range(k)]


def make_table(label: np.ndarray, probability: np.ndarray, group: np.ndarray, prefix: str = "") -> pd.DataFrame:
    classes = np.array(names(probability.shape[1]), dtype=object)
    table = pd.DataFrame(
        {
            "image_id": [f"{prefix}im{i:05d}" for i in range(len(label))],
            "group": [f"{prefix}g{g}" for g in group],
            "label": classes[label],
            "prediction": classes[probability.argmax(axis=1)],
        }
    )
    table[probability_columns(names(len(classes)))] = probability
    return table


def random_runs(seed: int, n: int, k: int, lesions: int, runs: int, *, ties: bool = False, **at: str) -> list:
    """Runs of one test set; 0 lesions are one for each image; they keep one label, as real ones do, unless ``ties``."""
    rng = np.random.default_rng(seed)
    group = rng.integers(lesions, size=n) if lesions else np.arange(n)
    lesions = lesions or n
    label = rng.integers(k, size=n) if ties else rng.integers(k, size=lesions)[group]
    shared = rng.gamma(0.6, size=(lesions, k))[group]
    tables = []
    for _ in range(runs):
        raw = rng.integers(1, 4, size=(n, k)) if ties else shared + rng.gamma(0.4, size=(n, k)) + np.eye(k)[label] / 2
        tables.append(make_table(label, raw / raw.sum(axis=1, keepdims=True), group, **at))
    return tables


def repeated(table: pd.DataFrame, count: dict[str, int]) -> pd.DataFrame:
    parts = [table.assign(image_id=table["image_id"] + f"-{copy}", copy=copy) for copy in range(max(count.values()))]
    whole = pd.concat(parts)
    return whole[whole["copy"] < whole["group"].map(count)]


def of_lesions(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return pd.factorize(table["group"], sort=True)[0], pd.factorize(table["label"], sort=True)[0]


def mean_of(tables: list[pd.DataFrame], classes: list[str]) -> dict[str, float]:
    values = [evaluate(table, classes, calibration_bins=RULES["calibration_bins"]) for table in tables]
    return {name: float(np.mean([one[name] for one in values])) for name in values[0] if all(name in v for v in values)}


# --- paired bootstrap and intervals of means


@pytest.mark.parametrize(("n", "k", "lesions", "runs"), [(60, 3, 35, (1, 1)), (40, 2, 40, (3, 2)), (90, 5, 25, (2, 2))])
def test_paired_bootstrap_is_a_plain_loop_over_repeated_tables(n: int, k: int, lesions: int, runs: tuple) -> None:
    tables = random_runs(n, n, k, lesions, sum(runs))
    sides = tables[: runs[0]], tables[runs[0] :]
    rules = RULES | {"replicates": 30}
    got = paired_bootstrap(*sides, names(k), **rules)
    groups = sorted(set(tables[0]["group"]))
    want: dict[str, list[float]] = {}
    for row in draw_groups(len(groups), rules["replicates"], np.random.default_rng(RULES["seed"])):
        count = dict(zip(groups, row.astype(int), strict=True))
        method, base = (mean_of([repeated(table, count) for table in side], names(k)) for side in sides)
        for name in method.keys() & base.keys():
            want.setdefault(name, []).append(method[name] - base[name])
    observed = [mean_of(side, names(k)) for side in sides]
    assert got.keys() == {name for name in observed[0] if "/" not in name} - {"n", "partial_auroc"}
    for name, found in got.items():
        value = observed[0][name] - observed[1][name]
        drawn = np.array(want[name])
        if name == "ece":
            drawn += value - drawn.mean()
        assert found.value == pytest.approx(value, abs=1e-12)
        # test_bootstrap.py tests what the widening of means over classes is
        wide = Widening.of([of_lesions(table) for table in tables]) if name in CLASS_MEANS else Widening(1.0, np.inf)
        tail = 100 * wide.tail(RULES["level"])
        assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, [tail, 100 - tail])), abs=1e-12), (
            name
        )
        share = (1 + min(sum(d <= 1e-13 for d in drawn), sum(d >= -1e-13 for d in drawn))) / (1 + len(drawn))
        assert found.p == pytest.approx(wide.p(share), abs=1e-12), name
        assert name in CLASS_MEANS or wide.p(share) == pytest.approx(min(1, 2 * share), abs=1e-12)


def test_paired_bootstrap_agrees_with_scipy_where_each_lesion_is_one_image() -> None:
    one, two = random_runs(5, 300, 4, 0, 2)
    right = [(table["prediction"] == table["label"]).to_numpy(float) for table in (one, two)]
    got = paired_bootstrap([one], [two], names(4), **RULES | {"replicates": 4000, "level": 0.95})["accuracy"]
    outside = bootstrap(
        right,
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    error = outside.standard_error
    # a 2.5 % quantile of 4000 draws has a standard error of 0.042 times that of the value
    assert got.low == pytest.approx(outside.confidence_interval.low, abs=5 * 0.06 * error + 1 / 300)
    assert got.high == pytest.approx(outside.confidence_interval.high, abs=5 * 0.06 * error + 1 / 300)
    assert (got.high - got.low) / (2 * 1.96) == pytest.approx(error, rel=0.1)


def test_values_are_those_of_scikit_learn() -> None:
    one, two = random_runs(8, 200, 3, 0, 2)
    got = paired_bootstrap([one], [two], names(3), **RULES)

    def outside(score: object) -> float:
        label = one["label"]
        found = []
        for table in (one, two):
            p = table[probability_columns(names(3))].to_numpy()
            found.append(score(label, table["prediction"], p))  # type: ignore[operator]
        return found[0] - found[1]

    def squares(label: pd.Series, _: pd.Series, p: np.ndarray) -> float:
        return sum(brier_score_loss(label == name, p[:, k]) for k, name in enumerate(names(3)))

    assert got["accuracy"].value == pytest.approx(outside(lambda y, hat, p: accuracy_score(y, hat)), abs=1e-12)
    assert got["loss"].value == pytest.approx(outside(lambda y, hat, p: log_loss(y, p)), abs=1e-12)
    assert got["brier"].value == pytest.approx(outside(squares), abs=1e-12)
    area = outside(lambda y, hat, p: roc_auc_score(y, p, multi_class="ovr", average="macro"))
    assert got["auroc_macro"].value == pytest.approx(area, abs=1e-12)
    assert delong([one], [two], names(3), level=0.95).value == pytest.approx(area, abs=1e-12)


@pytest.mark.parametrize(("n", "k", "lesions"), [(50, 3, 30), (2500, 7, 1500), (30, 2, 30)])
def test_the_interval_of_one_run_is_the_runs_own(n: int, k: int, lesions: int) -> None:
    table = random_runs(1, n, k, lesions, 1)[0]
    rules = RULES | {"replicates": 900 if n == 2500 else 60}  # more than one piece
    assert mean_intervals([table], names(k), **rules) == bootstrap_intervals(table, names(k), **rules)


def test_the_interval_of_equal_runs_is_that_of_one_and_of_independent_ones_is_narrower() -> None:
    rules = RULES | {"replicates": 400}
    runs = random_runs(2, 400, 3, 0, 6)
    one, same = mean_intervals(runs[:1], names(3), **rules), mean_intervals(runs[:1] * 3, names(3), **rules)
    for name in one:
        assert same[name] == pytest.approx(one[name], abs=1e-12)
    mean = mean_intervals(runs, names(3), **rules)["accuracy"]
    values = [evaluate(run, names(3), calibration_bins=10)["accuracy"] for run in runs]
    assert mean[0] < np.mean(values) < mean[1]
    assert mean[1] - mean[0] < one["accuracy"][1] - one["accuracy"][0]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_the_other_way_round_is_the_same_with_the_other_sign(seed: int, a: int, b: int, ties: bool) -> None:
    tables = random_runs(seed, 40, 3, 20, a + b, ties=ties)
    one, two = tables[:a], tables[a:]
    shuffled = [table.sample(frac=1, random_state=seed % 1000) for table in two]
    there, back = paired_bootstrap(one, two, names(3), **RULES), paired_bootstrap(shuffled, one, names(3), **RULES)
    for name, found in there.items():
        back_again = back[name]
        assert (found.value, found.low, found.high) == pytest.approx(
            (-back_again.value, -back_again.high, -back_again.low), abs=1e-12
        ), name
        assert 2 / 61 - 1e-12 <= found.p <= 1
        if name != "ece":
            # a draw without a difference may differ by a rounding error
            assert found.p == pytest.approx(back_again.p, abs=1e-12) or abs(found.low * found.high) < 1e-12, name
    areas = delong(one, two, names(3), level=0.9), delong(two, one, names(3), level=0.9)
    assert areas[0].value == pytest.approx(-areas[1].value, abs=1e-12, nan_ok=True)
    assert areas[0].p == pytest.approx(areas[1].p, abs=1e-9, nan_ok=True)
    assert mcnemar(one, two, names(3)).p == pytest.approx(mcnemar(shuffled, one, names(3)).p, abs=1e-12)


def test_a_method_does_not_differ_from_itself() -> None:
    runs = random_runs(0, 60, 3, 40, 3)
    for found in [*paired_bootstrap(runs, runs, names(3), **RULES).values(), delong(runs, runs, names(3), level=0.9)]:
        assert found == Difference(0, 0, 0, 1) or (abs(found.value) < 1e-12 and found.p == 1)
    assert mcnemar(runs, runs[::-1], names(3)).p == 1


# --- folds


def test_folds_are_averaged_and_their_lesions_are_separate_chance() -> None:
    folds = [random_runs(seed, 300, 3, 0, 2, prefix=f"f{seed}-") for seed in (0, 1, 2, 3)]
    one, two = [fold[0] for fold in folds], [fold[1] for fold in folds]
    rules = RULES | {"replicates": 2000, "level": 0.95}
    got = paired_bootstrap(one, two[::-1], names(3), **rules)["accuracy"]
    alone = [paired_bootstrap([a], [b], names(3), **rules)["accuracy"] for a, b in zip(one, two, strict=True)]
    assert got.value == pytest.approx(np.mean([each.value for each in alone]), abs=1e-12)
    # variances of independent parts add up
    width = np.sqrt(sum((each.high - each.low) ** 2 for each in alone)) / 4
    assert got.high - got.low == pytest.approx(width, rel=0.08)
    areas = [delong([a], [b], names(3), level=0.95) for a, b in zip(one, two, strict=True)]
    area = delong(one, two, names(3), level=0.95)
    assert area.value == pytest.approx(np.mean([each.value for each in areas]), abs=1e-12)
    assert area.high - area.low == pytest.approx(
        np.sqrt(sum((each.high - each.low) ** 2 for each in areas)) / 4, rel=1e-3
    )
    pooled = pd.concat(one), pd.concat(two)
    assert mcnemar(one, two, names(3)).statistic == pytest.approx(
        mcnemar([pooled[0]], [pooled[1]], names(3)).statistic, abs=1e-9
    )
    both = mean_intervals(one, names(3), **rules)["accuracy"]
    single = mean_intervals(one[:1], names(3), **rules)["accuracy"]
    assert both[1] - both[0] == pytest.approx((single[1] - single[0]) / 2, rel=0.2)


def test_more_runs_of_one_fold_do_not_tilt_the_comparison() -> None:
    """A hard and an easy fold, methods alike; the one has three seeds of the hard fold. Nothing differs."""
    hard, easy = (random_runs(seed, 100, 2, 0, 1, prefix=f"f{seed}-")[0] for seed in (0, 1))
    hard = hard.assign(p_c0=hard["p_c1"], p_c1=hard["p_c0"])
    hard["prediction"] = np.where(hard["p_c0"] >= hard["p_c1"], "c0", "c1")
    found = paired_bootstrap([hard, hard, hard, easy], [hard, easy], names(2), **RULES)
    assert max(abs(each.value) for each in found.values()) < 1e-12
    assert mcnemar([hard, hard, hard, easy], [easy, hard], names(2)).statistic == 0


def test_a_tiny_fold_that_a_replicate_misses() -> None:
    big, tiny = random_runs(0, 80, 2, 40, 2), random_runs(1, 2, 2, 1, 2, prefix="t")
    found = paired_bootstrap([big[0], tiny[0]], [big[1], tiny[1]], names(2), **RULES)
    assert all(np.isfinite([each.value, each.low, each.high, each.p]).all() for each in found.values())
    assert "auroc_macro" not in found  # undefined for the one lesion
    assert np.isfinite(list(mean_intervals([big[0], tiny[0]], names(2), **RULES).values())).all()


# --- what cannot be compared


def test_sides_of_other_images_are_refused() -> None:
    one, two = random_runs(0, 20, 2, 10, 1), random_runs(1, 20, 2, 10, 1, prefix="other")
    part = [one[0].iloc[1:]]
    for baseline in (two, part, [*one, *two]):
        for compare in (
            lambda b: paired_bootstrap(one, b, names(2), **RULES),
            lambda b: delong(one, b, names(2), level=0.9),
            lambda b: mcnemar(one, b, names(2)),
        ):
            with pytest.raises(UserError, match="not scored on the same images"):
                compare(baseline)


@pytest.mark.parametrize("column", ["label", "group"])
def test_an_image_with_two_labels_or_lesions_is_refused(column: str) -> None:
    one = random_runs(0, 20, 2, 10, 1)[0]
    two = one.copy()
    two.loc[4, column] = {"label": {"c0": "c1", "c1": "c0"}[one.loc[4, "label"]], "group": "g-other"}[column]
    with pytest.raises(UserError, match="im00004 has different labels or lesions"):
        mcnemar([one], [two], names(2))
    with pytest.raises(UserError, match="im00004"):
        mean_intervals([one, two], names(2), **RULES)


def test_no_tables_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_intervals([], names(2), **RULES)
