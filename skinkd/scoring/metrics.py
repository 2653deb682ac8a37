"""The evaluation protocol: metrics of a table of predictions (:mod:`skinkd.scoring.predictions`).

Present-classes rule. A metric of a class that the labels leave undefined is left out of the result and of the
macro mean over classes. Sensitivity, precision, F1 and average precision need an image of the class. Specificity
needs an image of another class. AUROC needs both. So every macro mean runs over the classes that are present in
the labels. A prediction of an absent class counts as an error of the label's class. A present class that is never
predicted has precision 0.
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_confusion_matrix

from skinkd.scoring.predictions import Floats, Ints, Scores, as_scores

LOWER_IS_BETTER = ("ece", "brier", "loss")
HIGHER_IS_BETTER = (
    *("accuracy", "balanced_accuracy", "precision", "recall", "f1", "auroc", "average_precision"),
    *("sensitivity", "specificity", "partial_auroc"),
)
"""Beginnings of the names of all other metrics."""
SENSITIVITY_FROM = 0.8  # the least of partial_auroc
_SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)


def confusion_matrix(table: pd.DataFrame, classes: Sequence[str]) -> Ints:
    """Return the number of images for each label (row) and prediction (column), (K, K)."""
    return _confusion(as_scores(table, classes))


def evaluate(table: pd.DataFrame, classes: Sequence[str], *, calibration_bins: int) -> dict[str, float]:
    """Return every metric of a prediction table by name. Undefined metrics are left out, so all values are finite.

    ``accuracy``; ``balanced_accuracy`` (the same as ``recall_macro``); ``precision_``, ``recall_`` and
    ``f1_`` with ``macro`` and ``weighted`` (by the number of images of each class); ``auroc_macro`` (mean of
    the one-against-rest areas); ``average_precision_macro``; ``ece``, the expected calibration error of the
    predicted class (Guo et al. 2017, eq. 3); ``brier``; ``loss`` (mean negative log-likelihood); ``n``
    (images); with two classes :func:`partial_auroc`; and ``sensitivity/``, ``specificity/``, ``auroc/`` and
    ``average_precision/`` with ``<class>``.
    Macro means follow the present-classes rule at the top of this file. All of it is computed in float64.

    Args:
        table: prediction table of N ≥ 1 images, in any order.
        classes: the K class names.
        calibration_bins: number of equally wide bins of the confidence for ``ece``.
    """
    scores = as_scores(table, classes)
    hits, labels, predictions = _counts(scores)
    rate, by_score, n = rates(hits, labels, predictions), _ranks(scores), labels.sum()
    result = {name: values[0] for name, values in count_metrics(hits[None], labels[None], predictions[None]).items()}
    for name, values in by_score.items():
        if not np.isnan(values).all():
            result[f"{name}_macro"] = np.nanmean(values)
    # torchmetrics' calibration error works in float32 and gives a confidence of 1 a separate bin
    gap = np.bincount(calibration_bin(confidence(scores), calibration_bins), weights=calibration_gap(scores))
    result |= {
        "ece": np.abs(gap).sum() / n,
        "brier": squared_error(scores).mean(),
        "loss": negative_log_likelihood(scores).mean(),
        "n": n,
    }
    if len(classes) == 2 and (labels > 0).all():
        result["partial_auroc"] = partial_auroc(scores.probability[:, 1], scores.label == 1)
    by_class = {"sensitivity": rate["sensitivity"], "specificity": rate["specificity"], **by_score}
    for name, values in by_class.items():
        result |= {f"{name}/{k}": v for k, v in zip(classes, values, strict=True) if not np.isnan(v)}
    return {name: float(value) for name, value in result.items()}


def per_class(table: pd.DataFrame, classes: Sequence[str], *, level: float) -> pd.DataFrame:
    """Return one row for each class, NaN where undefined.

    Columns: class, n (images), lesions, sensitivity, sensitivity_low, sensitivity_high, specificity,
    precision, f1, auroc. The bounds are Wilson's at confidence ``level``. Their sample size is the number of
    lesions, as if all images of a lesion were right or wrong together, which makes the interval rather too wide.
    Resampling would give a rare class an interval of no width if none or all of its images were found.
    """
    scores = as_scores(table, classes)
    hits, labels, predictions = _counts(scores)
    rate = rates(hits, labels, predictions)
    lesions = np.array([len(np.unique(scores.group[scores.label == k])) for k in range(len(classes))])
    low, high = wilson_interval(rate["sensitivity"], lesions, level)
    return pd.DataFrame(
        {
            "class": list(classes),
            "n": labels.astype(np.int64),
            "lesions": lesions,
            "sensitivity": rate["sensitivity"],
            "sensitivity_low": low,
            "sensitivity_high": high,
            "specificity": rate["specificity"],
            "precision": rate["precision"],
            "f1": rate["f1"],
            "auroc": _ranks(scores)["auroc"],
        }
    )


def wilson_interval(proportion: Floats, n: NDArray[np.number], level: float) -> tuple[Floats, Floats]:
    """Return the lower and upper bound of a proportion of ``n`` observations (Wilson 1927), NaN where ``n`` is 0."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        centre = (proportion + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(proportion * (1 - proportion) / n + z**2 / (4 * n**2))
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)


def rates(hits: Floats, labels: Floats, predictions: Floats) -> dict[str, Floats]:
    """Return sensitivity, specificity, precision and F1 of each class, (…, K), NaN where undefined.

    Args:
        hits: images of the class that were predicted as it, (…, K).
        labels: images of the class.
        predictions: images predicted as the class.
    """
    total = labels.sum(axis=-1, keepdims=True)
    present = np.where(labels > 0, 1.0, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "sensitivity": hits / labels,
            "specificity": (total - labels - predictions + hits) / (total - labels),
            "precision": present * np.where(predictions > 0, hits / predictions, 0),
            "f1": present * 2 * hits / (labels + predictions),
        }


def count_metrics(hits: Floats, labels: Floats, predictions: Floats) -> dict[str, Floats]:
    """Return the metrics that follow from counts of images, (R,) each, NaN where no class is present.

    ``accuracy``, ``balanced_accuracy``, and ``precision_``, ``recall_`` and ``f1_`` with ``macro`` and ``weighted``.

    Args:
        hits: images of each class that were predicted as it, (R, K).
        labels: images of the class.
        predictions: images predicted as the class.
    """
    n = labels.sum(axis=1)
    rate = rates(hits, labels, predictions)
    result = {"accuracy": hits.sum(axis=1) / n, "balanced_accuracy": class_mean(rate["sensitivity"])}
    for name, values in (("precision", rate["precision"]), ("recall", rate["sensitivity"]), ("f1", rate["f1"])):
        result[f"{name}_macro"] = class_mean(values)
        result[f"{name}_weighted"] = np.nansum(values * labels, axis=1) / n
    return result


def class_mean(values: Floats) -> Floats:
    """Return the mean of each row over the classes where it is not NaN, (R, K) to (R,); NaN for a row with only NaN."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=1)
    total = np.where(defined, values, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def confidence(scores: Scores) -> Floats:
    """Return the probability of each image's predicted class, (N,)."""
    return scores.probability[np.arange(len(scores.label)), scores.prediction]


def calibration_bin(values: Floats, bins: int) -> Ints:
    """Return the bin m of each confidence c, among M = ``bins`` equal bins: m/M < c ≤ (m+1)/M, and bin 0 for c = 0."""
    return np.searchsorted(np.arange(1, bins) / bins, values, side="left").astype(np.int64)


def calibration_gap(scores: Scores) -> Floats:
    """Return for each image 1 if it was predicted right, else 0, minus its confidence, (N,)."""
    return (scores.prediction == scores.label) - confidence(scores)


def squared_error(scores: Scores) -> Floats:
    """Return each image's Brier score, (N,): squared differences to the one-hot label, summed over classes.

    The form of Brier (1950), from 0 to 2; with two classes it is twice the one-sided form.
    """
    return ((scores.probability - np.eye(scores.probability.shape[1])[scores.label]) ** 2).sum(axis=1)


def negative_log_likelihood(scores: Scores) -> Floats:
    """Return −log of the label's probability, (N,). The probability is at least float32's smallest normal number."""
    probability = scores.probability[np.arange(len(scores.label)), scores.label]
    return -np.log(np.maximum(probability, _SMALLEST_PROBABILITY))


def ranking(scores: Scores, weights: Floats) -> dict[str, Floats]:
    """Return one-against-rest ``auroc`` and ``average_precision``, (R, K) each, NaN where undefined.

    Both follow from two sums for each image of the class: the weight of all images, and of the images of the
    class, with a higher score, or with at least the same score. They are running sums over the images sorted by
    score. Ties count half for AUROC. (torchmetrics works in float32 and gives an absent class an AUROC of 0.)

    Args:
        scores: N images in G groups.
        weights: how often the images of each group count, (R, G), whole numbers.
    """
    auroc, precision = np.full((2, len(weights), scores.probability.shape[1]), np.nan)
    zero = np.zeros((len(weights), 1))
    for k in np.unique(scores.label):
        negated, positive = -scores.probability[:, k], scores.label == k
        order = np.argsort(negated, kind="stable")
        every, chosen = negated[order], np.sort(negated[positive])
        weight = weights[:, scores.group[order]]
        own = weight[:, positive[order]]
        sums, own_sums = (np.hstack([zero, np.cumsum(part, axis=1)]) for part in (weight, own))
        above, own_above = (np.searchsorted(part, chosen, side="left") for part in (every, chosen))
        until, own_until = (np.searchsorted(part, chosen, side="right") for part in (every, chosen))
        least, own_least = sums[:, until], own_sums[:, own_until]
        lost = (least - own_least + sums[:, above] - own_sums[:, own_above]) / 2
        positives = own_sums[:, -1]
        negatives = sums[:, -1] - positives
        with np.errstate(divide="ignore", invalid="ignore"):
            auroc[:, k] = 1 - (own * lost).sum(axis=1) / (positives * negatives)
            precision[:, k] = np.where(own > 0, own * own_least / least, 0).sum(axis=1) / positives
    return {"auroc": auroc, "average_precision": precision}


def partial_auroc(score: Floats, positive: NDArray[np.bool_]) -> float:
    """Return the area of the ROC curve above a sensitivity of ``SENSITIVITY_FROM``, from 0 to 0.2; chance has 0.02.

    The metric of the ISIC 2024 challenge: the area between the curve, the line of that sensitivity and the right edge. With
    two classes the second is the positive one. Between two thresholds the curve is straight.

    Args:
        score: higher for the positive class, (N,).
        positive: whether an image is of it, (N,); both kinds must occur.
    """
    order = np.argsort(score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # of each run of equal scores
    below = positive[order].cumsum()[last]
    missed = np.append(0, below / below[-1])  # share of the positives at or below each score
    cleared = np.append(0, (last + 1 - below) / (len(score) - below[-1]))  # of the negatives
    most = 1 - SENSITIVITY_FROM
    kept = missed <= most
    x = np.append(missed[kept], most)
    y = np.append(cleared[kept], np.interp(most, missed, cleared))
    return float(np.trapezoid(y, x))


def _confusion(scores: Scores) -> Ints:
    prediction, label = torch.from_numpy(scores.prediction), torch.from_numpy(scores.label)
    return multiclass_confusion_matrix(prediction, label, num_classes=scores.probability.shape[1]).numpy()


def _counts(scores: Scores) -> tuple[Floats, Floats, Floats]:
    """Return hits, labels and predictions of each class, (K,) each."""
    matrix = _confusion(scores).astype(np.float64)
    return np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)


def _ranks(scores: Scores) -> dict[str, Floats]:
    """Return ``ranking`` with every image counted once, (K,) each."""
    once = np.ones((1, int(scores.group.max()) + 1))
    return {name: values[0] for name, values in ranking(scores, once).items()}
