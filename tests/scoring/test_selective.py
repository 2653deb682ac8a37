"""Selective prediction against plain loops, and against the area's known values."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinkd.errors import UserError
from skinkd.scoring.predictions import prediction_table
from skinkd.scoring.selective import abstention_threshold, aurc, risk_coverage, selective_by_class

CLASSES = ("akiec", "mel", "nv")


def table(label: list[str], confidence: list[float], prediction: list[str]) -> pd.DataFrame:
    ids = [f"im{i:05d}" for i in range(len(label))]
    probability = np.zeros((len(label), len(CLASSES)))
    for i, (sure, name) in enumerate(zip(confidence, prediction, strict=True)):
        probability[i] = (1 - sure) / 2
        probability[i, CLASSES.index(name)] = sure
    rows = pd.DataFrame({"image_id": ids, "group": ids, "label": label})
    return prediction_table(rows, np.arange(len(label)), probability, CLASSES)


SMALL = table(
    ["mel", "nv", "nv", "akiec", "nv", "mel"],
    [0.95, 0.9, 0.8, 0.7, 0.6, 0.5],
    ["mel", "nv", "mel", "nv", "nv", "mel"],
)


def random_table(seed: int, n: int, levels: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    label = rng.choice(CLASSES, size=n).tolist()
    sure = 0.4 + 0.6 * (rng.integers(levels, size=n) + 0.5) / levels if levels else rng.uniform(0.4, 1, n)
    wrong = rng.random(n) > sure
    guess = [str(rng.choice(CLASSES)) if bad else name for bad, name in zip(wrong, label, strict=True)]
    return table(label, sure.tolist(), guess)


def test_the_curve_by_hand() -> None:
    curve = risk_coverage(SMALL, CLASSES)
    assert curve["n"].tolist() == [1, 2, 3, 4, 5, 6]
    assert curve["threshold"].tolist() == pytest.approx([0.95, 0.9, 0.8, 0.7, 0.6, 0.5])
    assert curve["coverage"].tolist() == pytest.approx([n / 6 for n in range(1, 7)])
    assert curve["risk"].tolist() == pytest.approx([0, 0, 1 / 3, 2 / 4, 2 / 5, 2 / 6])
    area, excess = aurc(SMALL, CLASSES)
    assert area == pytest.approx((1 / 3 + 2 / 4 + 2 / 5 + 2 / 6) / 6)
    assert excess == pytest.approx(area - (1 / 5 + 2 / 6) / 6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 80), st.sampled_from([0, 1, 3]))
def test_the_area_is_that_of_random_orders_of_ties(seed: int, n: int, levels: int) -> None:
    rows = random_table(seed, n, levels)
    sure, wrong = rows[[f"p_{name}" for name in CLASSES]].max(axis=1).to_numpy(), (rows["label"] != rows["prediction"])
    rng, areas = np.random.default_rng(0), []
    for _ in range(400 if levels else 1):
        order = np.lexsort((rng.random(n), -sure))
        areas.append((np.cumsum(wrong.to_numpy()[order]) / np.arange(1, n + 1)).mean())
    area, excess = aurc(rows, CLASSES)
    spread = np.std(areas) / math.sqrt(len(areas))
    assert area == pytest.approx(np.mean(areas), abs=5 * spread + 1e-12)
    best = (np.cumsum(np.sort(wrong.to_numpy())) / np.arange(1, n + 1)).mean()
    assert area - excess == pytest.approx(best) and excess >= -1e-12
    shuffled = rows.sample(frac=1, random_state=0)
    assert aurc(shuffled, CLASSES) == (area, excess)


def test_an_order_that_knows_its_errors_has_no_excess() -> None:
    right_first = table(["nv"] * 4, [0.9, 0.8, 0.7, 0.6], ["nv", "nv", "mel", "mel"])
    assert aurc(right_first, CLASSES)[1] == pytest.approx(0)
    assert aurc(table(["nv"] * 3, [0.9] * 3, ["nv"] * 3), CLASSES) == (0, 0)
    assert aurc(table(["nv"] * 3, [0.9, 0.8, 0.7], ["mel"] * 3), CLASSES) == (1, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([0, 2, 5]), st.floats(0.01, 1))
def test_the_threshold_keeps_the_stated_share_and_no_higher_one_does(
    seed: int, n: int, levels: int, coverage: float
) -> None:
    rows = random_table(seed, n, levels)
    sure = rows[[f"p_{name}" for name in CLASSES]].max(axis=1)
    threshold = abstention_threshold(rows, CLASSES, coverage=coverage)
    assert (sure >= threshold).mean() >= coverage - 1e-9
    assert (sure > threshold).mean() < coverage


@pytest.mark.parametrize("coverage", [0, -0.5, 1.01, math.nan])
def test_a_coverage_that_is_none_is_refused(coverage: float) -> None:
    with pytest.raises(UserError, match=r"coverage=.* such as 0\.8"):
        abstention_threshold(SMALL, CLASSES, coverage=coverage)


def test_each_class_by_hand() -> None:
    found = selective_by_class(SMALL, CLASSES, threshold=0.75).set_index("class")
    assert found["n"].tolist() == [1, 2, 3, 6] and found["kept"].tolist() == [0, 1, 2, 3]
    assert found["coverage"].tolist() == pytest.approx([0, 1 / 2, 2 / 3, 1 / 2])
    assert found["accuracy"].tolist() == pytest.approx([0, 1, 2 / 3, 4 / 6])
    assert math.isnan(found.loc["akiec", "accuracy_kept"])
    assert found["accuracy_kept"].tolist()[1:] == pytest.approx([1, 1 / 2, 2 / 3])
    absent = selective_by_class(SMALL[SMALL["label"] != "akiec"], CLASSES, threshold=0.0).iloc[0]
    assert absent["n"] == 0 and math.isnan(absent["coverage"]) and math.isnan(absent["accuracy"])


@pytest.mark.parametrize("seed", range(3))
def test_keeping_everything_gives_accuracy_and_sensitivity(seed: int) -> None:
    from skinkd.scoring.metrics import evaluate

    rows = random_table(seed, 90, 0)
    metrics = evaluate(rows, CLASSES, calibration_bins=10)
    found = selective_by_class(rows, CLASSES, threshold=0.0).set_index("class")
    assert found.loc["all", "accuracy_kept"] == found.loc["all", "accuracy"] == pytest.approx(metrics["accuracy"])
    assert [found.loc[k, "accuracy"] for k in CLASSES] == pytest.approx([metrics[f"sensitivity/{k}"] for k in CLASSES])
    assert risk_coverage(rows, CLASSES)["risk"].iloc[-1] == pytest.approx(1 - metrics["accuracy"])
