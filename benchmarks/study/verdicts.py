"""What the design of the study counts as support: each method less its baseline, with both intervals and a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from skinkd.analysis.statistics import Difference, holm, paired_differences
from skinkd.analysis.trainings import OverTrainings, difference_over_trainings

from .collect import APART, BASELINES, FOLDS, Collected
from .scores import LEVEL, METRICS, scores

SIGNIFICANT = 0.05
PRIMARY = "balanced_accuracy"
VERDICTS = ("supported", "not settled", "refuted as an improvement")


@dataclass(frozen=True)
class Compared:
    """A row less another on the folds that both have.

    Attributes:
        row, other: their names.
        folds: these folds.
        trainings: how many runs of each, over folds and seeds.
        by_fold: the difference in balanced accuracy on each of them, the mean over its seeds.
        lesions: by metric, the mean over folds, for other lesions and these trained networks.
        trained: by metric, the same mean for other lesions and other trainings.
    """

    row: str
    other: str
    folds: tuple[int, ...]
    trainings: int
    by_fold: tuple[float, ...]
    lesions: dict[str, Difference]
    trained: dict[str, OverTrainings]


def compared(collected: Collected, row: str, other: str) -> Compared:
    """Compare a row with another on the folds and seeds that both have, at least two folds."""
    places, folds = collected.places(row, other), collected.folds(row, other)
    sides = [[collected.runs[name][place] for place in places] for name in (row, other)]
    drawn = collected.resampled([*sides[0], *sides[1]])
    values = [[scores(run)[PRIMARY] for run in side] for side in sides]
    lesions = paired_differences(drawn, len(places), LEVEL)
    trained = difference_over_trainings(drawn, places, places, LEVEL)
    added = [one - other for one, other in zip(*values, strict=True)]
    by_fold = tuple(mean(value for value, place in zip(added, places, strict=True) if place[0] == of) for of in folds)
    return Compared(
        *(row, other, tuple(folds), len(places), by_fold),
        {name: lesions[name] for name in METRICS},
        {name: trained[name] for name in METRICS},
    )


def adjusted(methods: Sequence[Compared], metric: str) -> dict[str, float]:
    """p over trainings and lesions by row, with Holm's correction over all methods of the design.

    A method without all folds counts as one with p = 1, so that what is still to come cannot weaken what is said now.
    """
    whole = {one.row: one.trained[metric].p for one in methods if len(one.folds) == FOLDS}
    values = holm([whole.get(row, 1.0) for row in BASELINES])
    return {row: value for row, value in zip(BASELINES, values, strict=True) if row in whole}


def judged(methods: Sequence[Compared], metric: str) -> dict[str, float]:
    """The p by which the design judges each row that has all folds: corrected for the six, as it is for a row apart."""
    apart = {one.row: one.trained[metric].p for one in methods if one.row in APART and len(one.folds) == FOLDS}
    return adjusted(methods, metric) | apart


def verdict(one: Compared, p: float | None) -> str:
    """What the design says of a method, by its primary metric.

    Args:
        one: the method less its baseline.
        p: of :func:`judged`; None where folds are missing.
    """
    interval = one.trained[PRIMARY]
    if p is None:
        return f"not settled ({len(one.folds)} of {FOLDS} folds)"
    supported, open_, refuted = VERDICTS
    if interval.low > 0 and p < SIGNIFICANT:
        return supported
    return refuted if interval.high < 0 else open_
