"""Selective prediction: the network abstains where it is not confident, and what that does to each class.

The confidence is the probability of the predicted class. Risk is the share of wrong predictions among the images that are kept,
coverage the share of images kept (El-Yaniv and Wiener 2010, On the Foundations of Noise-free Selective Classification).
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from skinkd.errors import UserError
from skinkd.scoring.metrics import confidence
from skinkd.scoring.predictions import Floats, as_scores


def risk_coverage(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return the risk–coverage curve: a row for each confidence in the table, highest first.

    Columns: threshold (images of at least this confidence are kept), coverage, risk, n (images kept).
    """
    scores = as_scores(table, classes)
    sure, wrong = confidence(scores), scores.prediction != scores.label
    threshold, place = np.unique(-sure, return_inverse=True)
    kept = np.bincount(place).cumsum()
    errors = np.bincount(place, weights=wrong).cumsum()
    return pd.DataFrame({"threshold": -threshold, "coverage": kept / len(sure), "risk": errors / kept, "n": kept})


def aurc(table: pd.DataFrame, classes: Sequence[str]) -> tuple[float, float]:
    """Return the area under the risk–coverage curve and its excess over the best possible order of the same predictions.

    The area is the mean over i = 1 … N of the risk among the i most confident images (Geifman, Uziel and El-Yaniv 2019,
    Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers, section 3). The best order has all right predictions
    first. Images of equal confidence count with their mean risk, as in a random order of them.
    """
    curve = risk_coverage(table, classes)
    n = curve["n"].to_numpy(np.float64)
    errors = curve["risk"].to_numpy() * n
    images = np.arange(1, n[-1] + 1)
    found = np.interp(images, [0.0, *n], [0.0, *errors])
    best = np.maximum(images - (n[-1] - errors[-1]), 0)
    area, least = float((found / images).mean()), float((best / images).mean())
    return area, area - least


def abstention_threshold(table: pd.DataFrame, classes: Sequence[str], *, coverage: float) -> float:
    """Return the highest confidence at which at least the share ``coverage`` of a table, of the validation part, is kept.

    An image is kept if its confidence is at least the threshold. Images of equal confidence are kept together, so that more
    than ``coverage`` may be kept; on other images more or fewer may be.

    Raises:
        UserError: the coverage is not above 0 and at most 1.
    """
    if not 0 < coverage <= 1:
        raise UserError(f"coverage={coverage} is out of range; it must be above 0 and at most 1, such as 0.8")
    sure = np.sort(confidence(as_scores(table, classes)))[::-1]
    return float(sure[math.ceil(round(coverage * len(sure), 9)) - 1])


def selective_by_class(table: pd.DataFrame, classes: Sequence[str], *, threshold: float) -> pd.DataFrame:
    """Return what abstention below ``threshold`` does to each class: a row for each class, and one for all images.

    Columns: class ("all" for the last row), n (images), kept (images), coverage (share kept), accuracy (of all n images) and
    accuracy_kept (of the images kept). The accuracy of the images of a class is the class's sensitivity. A share of no
    images is NaN.

    Args:
        table: prediction table of N images, of the test part.
        classes: the K class names.
        threshold: of :func:`abstention_threshold`.
    """
    scores = as_scores(table, classes)
    kept, right = confidence(scores) >= threshold, scores.prediction == scores.label
    everyone = np.ones(len(right), bool)
    rows = []
    for name, own in [*((name, scores.label == k) for k, name in enumerate(classes)), ("all", everyone)]:
        n, keeps = int(own.sum()), int((own & kept).sum())
        rows.append(
            [
                name,
                n,
                keeps,
                _share(keeps, n),
                _share((own & right).sum(), n),
                _share((own & kept & right).sum(), keeps),
            ]
        )
    return pd.DataFrame(rows, columns=["class", "n", "kept", "coverage", "accuracy", "accuracy_kept"])


def _share(part: Floats | int, n: int) -> float:
    return float(part) / n if n else math.nan
