"""Conformal prediction sets: sets of classes that hold the true class of a stated share of images.

The score of an image is 1 minus the probability of its class (Sadinle, Lei and Wasserman 2019, Least Ambiguous Set-Valued
Classifiers with Bounded Error Levels). A class is in an image's set if the image's score for it is at most a threshold. The
threshold is the ⌈(n + 1)·level⌉-th smallest score of the n images that it is fitted on (Vovk, Gammerman and Shafer 2005,
Algorithmic Learning in a Random World, chapter 2).

Class-conditional sets (Vovk 2012, Conditional Validity of Inductive Conformal Predictors) have a threshold for each class,
fitted on the images of that class. So they hold the true class for the stated share of the images *of each class*. Marginal
sets have one threshold for all classes, and reach the stated share over all images alone: they may always miss a rare class.

The guarantee is an average over draws of the images, and needs images that are independent and of one distribution. Several
photographs of one lesion, and images of another clinic, weaken it.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skinkd.errors import UserError
from skinkd.scoring.predictions import Floats, Ints, as_scores


class Conformal(NamedTuple):
    """Fitted conformal sets of K classes.

    Attributes:
        level: the share of images whose set is to hold the true class, between 0 and 1.
        by_class: whether the sets are class-conditional.
        threshold: highest score of a class in a set, (K,); infinite where ``n`` is too small for the level: that class is in
            every set.
        n: images that the threshold was fitted on, (K,).
    """

    level: float
    by_class: bool
    threshold: Floats
    n: Ints


def least_images(level: float) -> int:
    """Return how many images a threshold for ``level`` needs: the least n with ⌈(n + 1)·level⌉ ≤ n."""
    return math.ceil(_exact(level / (1 - level)))


def fit_conformal(table: pd.DataFrame, classes: Sequence[str], *, level: float, by_class: bool = True) -> Conformal:
    """Fit conformal sets on a prediction table, of the validation part.

    Args:
        table: prediction table of N images.
        classes: the K class names.
        level: the share of images whose set is to hold the true class.
        by_class: class-conditional sets, else marginal sets.

    Raises:
        UserError: the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise UserError(f"conformal={level} is out of range; it must be above 0 and below 1, such as 0.9")
    scores = as_scores(table, classes)
    own = 1 - scores.probability[np.arange(len(scores.label)), scores.label]
    groups = [own[scores.label == k] for k in range(len(classes))] if by_class else [own] * len(classes)
    return Conformal(
        level=level,
        by_class=by_class,
        threshold=np.array([_threshold(group, level) for group in groups]),
        n=np.array([len(group) for group in groups], np.int64),
    )


def _threshold(scores: Floats, level: float) -> float:
    rank = math.ceil(_exact((len(scores) + 1) * level))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def _exact(number: float) -> float:
    """Return a number without the error of its multiplication: 0.7 · 10 is 7, not a little more."""
    return round(number, 9)


def prediction_sets(probability: Floats, conformal: Conformal) -> NDArray[np.bool_]:
    """Return which classes are in the set of each image, (N, K). A set may be empty: no class suits the image."""
    return 1 - probability <= conformal.threshold


def score_sets(table: pd.DataFrame, classes: Sequence[str], conformal: Conformal) -> pd.DataFrame:
    """Return how the sets do on a prediction table, of the test part: a row for each class, and one for all images.

    Columns: class ("all" for the last row), n (images of the table), coverage (share of the images whose set holds the true
    class), size (mean number of classes in a set), n_fit (images that the class's threshold was fitted on) and enough (whether
    these are as many as the level needs). Coverage and size are NaN for a class without images.
    """
    scores = as_scores(table, classes)
    sets = prediction_sets(scores.probability, conformal)
    hit, size = sets[np.arange(len(sets)), scores.label], sets.sum(axis=1)
    rows = []
    for k, name in enumerate(classes):
        own = scores.label == k
        enough = bool(np.isfinite(conformal.threshold[k]))
        rows.append([name, own.sum(), _mean(hit[own]), _mean(size[own]), conformal.n[k], enough])
    fitted = conformal.n.sum() if conformal.by_class else conformal.n[0]
    rows.append(["all", len(sets), hit.mean(), size.mean(), fitted, bool(np.isfinite(conformal.threshold).all())])
    return pd.DataFrame(rows, columns=["class", "n", "coverage", "size", "n_fit", "enough"])


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else math.nan


def as_plain(conformal: Conformal) -> dict[str, Any]:
    """Return fitted sets as a JSON object holds them; an infinite threshold is null."""
    threshold = [value if math.isfinite(value) else None for value in conformal.threshold.tolist()]
    return conformal._asdict() | {"threshold": threshold, "n": conformal.n.tolist()}


def from_plain(values: dict[str, Any]) -> Conformal:
    """Return the sets that :func:`as_plain` wrote."""
    threshold = [math.inf if value is None else float(value) for value in values["threshold"]]
    return Conformal(
        float(values["level"]), bool(values["by_class"]), np.array(threshold), np.array(values["n"], np.int64)
    )
