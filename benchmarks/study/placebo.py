"""A row against itself: how often an interval finds a difference between trainings of the same row.

A row with two seeds on all folds is split into two sides of five trainings, one of each fold, in each of the 16 ways. The
method is the same on both sides, so the difference is zero on average.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from skinkd.analysis.runs import Run
from skinkd.analysis.statistics import Difference, paired_differences
from skinkd.analysis.trainings import OverTrainings, difference_over_trainings

from .collect import FOLDS, Collected
from .scores import LEVEL, METRICS
from .tables import markdown

SAME = ("teacher_head",)
"""Rows whose network is that of another row."""


@dataclass(frozen=True)
class Found:
    """The share of comparisons in which an interval leaves out zero.

    Attributes:
        comparisons: how many.
        rows: of which rows.
        lesions: the share by metric, of the interval for other lesions.
        trained: the same of the interval for other trainings too.
    """

    comparisons: int
    rows: tuple[str, ...]
    lesions: dict[str, float]
    trained: dict[str, float]


def sides(runs: dict[tuple[int, int], Run]) -> Iterator[tuple[list[Run], list[Run]]]:
    """The ways in which a row's two seeds can be dealt to two sides, each way once."""
    first, second = sorted({seed for _, seed in runs})
    for rest in itertools.product((first, second), repeat=FOLDS - 1):
        chosen = (first, *rest)
        yield (
            [runs[fold, seed] for fold, seed in enumerate(chosen)],
            [runs[fold, first + second - seed] for fold, seed in enumerate(chosen)],
        )


def against_itself(collected: Collected) -> Found:
    """Compare every row that has two seeds on all folds with itself."""
    rows = [row for row, runs in collected.runs.items() if len(runs) == 2 * FOLDS and row not in SAME]
    places = [(fold, 0) for fold in range(FOLDS)]
    lesions, trained = [], []
    for row in rows:
        for one, other in sides(collected.runs[row]):
            drawn = collected.resampled([*one, *other])
            lesions.append(paired_differences(drawn, FOLDS, LEVEL))
            trained.append(difference_over_trainings(drawn, places, places, LEVEL))
    return Found(len(lesions), tuple(rows), _without_zero(lesions), _without_zero(trained))


def _without_zero(found: Sequence[Mapping[str, Difference | OverTrainings]]) -> dict[str, float]:
    return {name: fmean(not one[name].low <= 0 <= one[name].high for one in found) for name in METRICS}


def placebo_table(found: Found) -> str:
    """Both shares by metric."""
    lines = [[words, f"{found.lesions[name]:.1%}", f"{found.trained[name]:.1%}"] for name, words in METRICS.items()]
    return markdown(["metric", "interval for other lesions", "interval for other trainings too"], lines)
