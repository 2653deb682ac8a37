"""Whether intervals cover what they promise and tests are wrong as often as they say, on data whose truth is known.

Two networks of equal worth: they share how hard a lesion is, and differ by noise for each lesion and each image of it. So
every difference between them is chance. Classes have HAM10000's frequencies among lesions; a lesion has 1 to 4 images.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from skinkd.analysis.statistics import delong, mcnemar, paired_differences
from skinkd.scoring.bootstrap import intervals_of_mean, resample
from skinkd.scoring.metrics import evaluate
from skinkd.scoring.predictions import probability_columns

LESIONS_OF_CLASS = np.array([5403, 727, 614, 327, 228, 98, 73])  # of HAM10000
FREQUENCY = LESIONS_OF_CLASS / LESIONS_OF_CLASS.sum()
CLASSES = [f"c{k}" for k in range(len(FREQUENCY))]
LEVEL, BINS = 0.95, 15


def draw(rng: np.random.Generator, lesions: int, networks: int) -> list[pd.DataFrame]:
    images = rng.integers(1, 5, size=lesions)
    group = np.repeat(np.arange(lesions), images)
    label = rng.choice(len(CLASSES), size=lesions, p=FREQUENCY)[group]
    shape = (lesions, len(CLASSES))
    shared = 2.2 * np.eye(len(CLASSES))[label] + 0.5 * np.log(FREQUENCY) + rng.normal(size=shape)[group]
    tables = []
    for _ in range(networks):
        logits = shared + 0.8 * rng.normal(size=shape)[group] + 0.5 * rng.normal(size=shared.shape)
        p = np.exp(logits)
        name = np.array(CLASSES, dtype=object)
        table = pd.DataFrame(
            {
                "image_id": np.char.mod("im%07d", np.arange(len(group))),
                "group": np.char.mod("g%07d", group),
                "label": name[label],
                "prediction": name[p.argmax(axis=1)],
            }
        )
        table[probability_columns(CLASSES)] = p / p.sum(axis=1, keepdims=True)
        tables.append(table)
    return tables


class Outcome(NamedTuple):
    """Shares of the repetitions.

    Attributes:
        covered: by metric, of intervals that hold the truth.
        wrong: by test, of p-values of at most 0.05.
    """

    covered: dict[str, float]
    wrong: dict[str, float]


def truth(tables: int) -> dict[str, float]:
    """Every metric of one network on 50,000 lesions, mean over as many tables.

    One table is not enough: its own error, 0.15 of the standard error of 1,120 lesions, would be seen as intervals that
    cover less.
    """
    found = [
        evaluate(draw(np.random.default_rng([1, n]), 50_000, 1)[0], CLASSES, calibration_bins=BINS)
        for n in range(tables)
    ]
    return {name: float(np.mean([one[name] for one in found])) for name in found[0] if "/" not in name}


def simulate(
    true: dict[str, float], repetitions: int, lesions: int, replicates: int, *, by_lesion: bool = True
) -> Outcome:
    """Resample each network once, with the same draws, as ``comparison.compare`` does."""
    rng = np.random.default_rng(7)
    covered: dict[str, list[bool]] = {}
    wrong: dict[str, list[bool]] = {}
    for seed in range(repetitions):
        tables = draw(rng, lesions, 2)
        if not by_lesion:
            tables = [table.assign(group=table["image_id"]) for table in tables]
        one, two = tables[:1], tables[1:]
        rules = {"replicates": replicates, "seed": seed, "calibration_bins": BINS}
        first, second = (resample(side, CLASSES, **rules) for side in (one, two))
        for name, (low, high) in intervals_of_mean(first, LEVEL).items():
            covered.setdefault(name, []).append(low <= true[name] <= high)
        p = {name: found.p for name, found in paired_differences(first.joined(second), 1, LEVEL).items()}
        p |= {"delong": delong(one, two, CLASSES, level=LEVEL).p, "mcnemar": mcnemar(one, two, CLASSES).p}
        for name, value in p.items():
            wrong.setdefault(name, []).append(value <= 0.05)
    return Outcome(*({name: float(np.mean(part)) for name, part in parts.items()} for parts in (covered, wrong)))


COVERING = (
    *("accuracy", "balanced_accuracy", "precision_macro", "precision_weighted", "f1_macro", "f1_weighted"),
    *("auroc_macro", "average_precision_macro", "brier", "loss"),
)
"""Metrics whose intervals are to be right; that of ECE is to be right or too wide."""
TESTS = (*COVERING, "ece", "delong", "mcnemar")


ERROR_OF_100 = np.sqrt(0.05 * 0.95 / 100)
"""Monte Carlo error of 100 repetitions, 2.2 points; the bounds are those of the slow test and three of them."""


@pytest.mark.timeout(900)
def test_quick() -> None:
    """100 repetitions of a test part that is smaller than HAM10000's, which the slow test has."""
    right = simulate(truth(2), 100, 500, 99)  # the error of the truth is 0.07 of that of 500 lesions
    for name in (*COVERING, "ece"):
        assert right.covered[name] >= 0.93 - 3 * ERROR_OF_100, (name, right)
    for name in TESTS:
        assert right.wrong[name] <= 0.06 + 3 * ERROR_OF_100, (name, right)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_one_fails_without_lesions() -> None:
    """With images in place of lesions tests are wrong far more often and intervals cover far less."""
    without = simulate(truth(5), 100, 300, 199, by_lesion=False)
    few = ("accuracy", "auroc_macro", "brier", "loss")
    assert np.mean([without.covered[name] for name in few]) < 0.93 - 3 * ERROR_OF_100, without
    assert np.mean([without.wrong[name] for name in few]) > 0.06 + 3 * ERROR_OF_100, without


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_intervals_cover_93_to_97_of_100_and_tests_are_wrong_in_at_most_6() -> None:
    """2,000 repetitions of a test part of HAM10000's size: the Monte Carlo error is 0.49 points, and two are allowed."""
    found, error = simulate(truth(40), 2000, 1120, 599), np.sqrt(0.05 * 0.95 / 2000)
    print(found)
    for name in COVERING:
        assert 0.93 - 2 * error <= found.covered[name] <= 0.97 + 2 * error, (name, found)
    assert found.covered["ece"] >= 0.93 - 2 * error, found
    for name in TESTS:
        assert found.wrong[name] <= 0.06 + 2 * error, (name, found)
