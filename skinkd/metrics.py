"""The evaluation protocol, in one place: a table of predictions in, numbers out.

A prediction table has one row for each image: ``image_id`` (unique, ascending), ``group`` (lesion), ``label``
and ``prediction`` (class names) and, in class order, one probability column ``p_<class>`` for each class.

Present-classes rule. A quantity of one class that the labels leave undefined is left out, of the result and
of the macro mean over classes. Sensitivity, precision, F1 and average precision need an image of the class,
specificity an image of another class, AUROC both. So every macro mean runs over classes present in the
labels; predicting an absent class costs the class of the label. A present class never predicted has precision
0.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import multiclass_confusion_matrix

from skinkd.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# a softmax in float32 misses a sum of one by 1e-6, in half precision by 1e-2; logits miss it by far
_SUM_TOLERANCE = 1e-3
_SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)


class Scores(NamedTuple):
    """A prediction table as arrays, in order of ``image_id``.

    Attributes:
        label: class index, (N,).
        prediction: class index, (N,).
        probability: float64, (N, K).
        group: place of the lesion among the sorted names of the table's lesions, (N,).
    """

    label: Ints
    prediction: Ints
    probability: Floats
    group: Ints


def probability_columns(classes: Sequence[str]) -> list[str]:
    """Return the names of the probability columns of a prediction table, in class order."""
    return [f"p_{name}" for name in classes]


def prediction_table(
    rows: pd.DataFrame,
    index: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
) -> pd.DataFrame:
    """Join gathered probabilities with the images they belong to.

    Samples that a distributed sampler repeated are dropped (the first one stays), so that one process and
    several give the same table. The prediction is the most probable class; of equal ones, the first in class
    order.

    Args:
        rows: the images of the evaluated part: ``image_id``, ``group`` and ``label`` (class name), one row each;
            its pandas index holds the numbers that ``Batch.index`` carries.
        index: row numbers as gathered, in any order, (M,) with M ≥ N images.
        probabilities: class probabilities of those rows, (M, K); each row sums to one.
        classes: the K class names.

    Raises:
        ValueError: an image of ``rows`` has no prediction, or a shape, row number, label or sum is wrong.
        UserError: a probability is not finite, as of a network that has diverged.
    """
    probability = np.asarray(probabilities, dtype=np.float64)
    if probability.shape != (len(index), len(classes)):
        raise ValueError(f"{len(index)} rows, {len(classes)} classes, but probabilities are {probability.shape}")
    if rows.empty or rows["image_id"].duplicated().any() or not rows.index.is_unique:
        raise ValueError("rows must hold at least one image, and each image and row number once")
    number, first = np.unique(np.asarray(index), return_index=True)
    place = rows.index.get_indexer(pd.Index(number))
    if (place < 0).any():
        raise ValueError(f"row {number[place < 0][0]} is not a row of this part")
    if len(number) < len(rows):
        absent = rows.loc[~rows.index.isin(number), "image_id"]
        raise ValueError(f"{len(absent)} of {len(rows)} images have no prediction, first {absent.iloc[0]}")
    chosen, probability = rows.iloc[place], probability[first]
    unknown = ~chosen["label"].isin(list(classes))
    if unknown.any():
        raise ValueError(f"label {chosen.loc[unknown, 'label'].iloc[0]!r} is not one of {list(classes)}")
    broken = ~np.isfinite(probability).all(axis=1)
    if broken.any():
        raise UserError(
            f"the network's output is not finite for {broken.sum()} of {len(rows)} images, first "
            f"{chosen['image_id'].iloc[int(broken.argmax())]}: the training diverged; "
            "lower the learning rate or train with precision=fp32"
        )
    if (probability < 0).any() or (np.abs(probability.sum(axis=1) - 1) > _SUM_TOLERANCE).any():
        raise ValueError("probabilities must not be negative and must sum to one for each image")
    table = pd.DataFrame(
        {
            "image_id": chosen["image_id"].astype(str).to_numpy(),
            "group": chosen["group"].astype(str).to_numpy(),
            "label": chosen["label"].to_numpy(),
            "prediction": np.asarray(classes, dtype=object)[probability.argmax(axis=1)],
        }
    )
    table[probability_columns(classes)] = probability
    return table.sort_values("image_id", kind="stable", ignore_index=True)


def read_predictions(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read what ``table.to_csv(path, index=False)`` wrote: the same prediction table, and its classes.

    Names that look like numbers stay names, and probabilities come back to the last bit.

    Raises:
        UserError: the file is missing or is not a prediction table.
    """
    names = ["image_id", "group", "label", "prediction"]
    try:
        # as text, and then as numbers: not every version of pandas reads the last bit of a float by itself
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        columns = [column for column in table.columns if column.startswith("p_")]
        table = table.astype(dict.fromkeys(columns, np.float64))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read predictions from {path}: {error}") from error
    classes = [column.removeprefix("p_") for column in columns]
    if not classes or set(names) - set(table.columns) or table.empty:
        raise UserError(f"{path} is not a table of predictions: it needs rows with {', '.join(names)} and p_<class>")
    return table, classes


def as_scores(table: pd.DataFrame, classes: Sequence[str]) -> Scores:
    """Return a prediction table as arrays; the same set of rows in any order gives the same arrays.

    Raises:
        ValueError: the table is empty, repeats an image, or names an unknown class.
    """
    table = table.sort_values("image_id", kind="stable")
    if table.empty or table["image_id"].duplicated().any():
        raise ValueError("a prediction table needs at least one row, and each image once")
    index = pd.Index(list(classes))
    label, prediction = (index.get_indexer(pd.Index(table[name])) for name in ("label", "prediction"))
    if (label < 0).any() or (prediction < 0).any():
        raise ValueError(f"a label or prediction is not one of the classes {list(classes)}")
    group = np.unique(table["group"].to_numpy(dtype=str), return_inverse=True)[1]
    probability = table[probability_columns(classes)].to_numpy(dtype=np.float64)
    return Scores(label.astype(np.int64), prediction.astype(np.int64), probability, group.astype(np.int64))


def confusion_matrix(table: pd.DataFrame, classes: Sequence[str]) -> Ints:
    """Return the number of images for each label (row) and prediction (column), (K, K)."""
    return _confusion(as_scores(table, classes))


def evaluate(table: pd.DataFrame, classes: Sequence[str], *, calibration_bins: int) -> dict[str, float]:
    """Return every metric of a prediction table by name; undefined ones are left out, so all are finite.

    ``accuracy``; ``balanced_accuracy`` (the same as ``recall_macro``); ``precision_``, ``recall_`` and
    ``f1_`` with ``macro`` and ``weighted`` (by the number of images of each class); ``auroc_macro`` (mean of
    the one-against-rest areas); ``average_precision_macro``; ``ece``, the expected calibration error of the
    predicted class (Guo et al. 2017, eq. 3); ``brier``; ``loss`` (mean negative log-likelihood); ``n``
    (images); and ``sensitivity/``, ``specificity/``, ``auroc/`` and ``average_precision/`` with ``<class>``.
    Macro means follow the present-classes rule at the top of this file. Average precision has float32
    accuracy, all others float64.

    Args:
        table: prediction table of N ≥ 1 images, in any order.
        classes: the K class names.
        calibration_bins: number of equal bins of confidence for ``ece``.
    """
    scores = as_scores(table, classes)
    labels, rate = _class_rates(scores)
    by_score = _ranks(scores)
    present, n = labels > 0, labels.sum()
    result = {
        "accuracy": (scores.prediction == scores.label).mean(),
        "balanced_accuracy": rate["sensitivity"][present].mean(),
    }
    for name, values in (
        ("precision", rate["precision"]),
        ("recall", rate["sensitivity"]),
        ("f1", rate["f1"]),
    ):
        result[f"{name}_macro"] = values[present].mean()
        result[f"{name}_weighted"] = (values[present] * labels[present]).sum() / n
    for name, values in by_score.items():
        if not np.isnan(values).all():
            result[f"{name}_macro"] = np.nanmean(values)
    # not torchmetrics' calibration error: it works in float32 and gives a confidence of 1 a bin of its own
    gap = np.bincount(calibration_bin(confidence(scores), calibration_bins), weights=calibration_gap(scores))
    result |= {
        "ece": np.abs(gap).sum() / n,
        "brier": squared_error(scores).mean(),
        "loss": negative_log_likelihood(scores).mean(),
        "n": n,
    }
    by_class = {"sensitivity": rate["sensitivity"], "specificity": rate["specificity"], **by_score}
    for name, values in by_class.items():
        result |= {f"{name}/{k}": v for k, v in zip(classes, values, strict=True) if not np.isnan(v)}
    return {name: float(value) for name, value in result.items()}


def per_class(table: pd.DataFrame, classes: Sequence[str], *, level: float) -> pd.DataFrame:
    """Return one row for each class, NaN where undefined.

    Columns: class, n (images), lesions, sensitivity, sensitivity_low, sensitivity_high, specificity,
    precision, f1, auroc. The bounds are Wilson's at confidence ``level``, with lesions in place of images as
    the sample size, as if the images of a lesion were right or wrong together: on the safe side, and never of
    no width, which resampling gives a rare class of which no image, or every image, was found.
    """
    scores = as_scores(table, classes)
    labels, rate = _class_rates(scores)
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
    """Return the bounds of a proportion of ``n`` observations (Wilson 1927), NaN where ``n`` is 0."""
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


def confidence(scores: Scores) -> Floats:
    """Return the probability of each image's predicted class, (N,)."""
    return scores.probability[np.arange(len(scores.label)), scores.prediction]


def calibration_bin(values: Floats, bins: int) -> Ints:
    """Return the bin m of each confidence c, of M = ``bins`` equal ones: m/M < c ≤ (m+1)/M, and 0 for 0."""
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
    """Return −log of the label's probability, (N,); float32's smallest normal number bounds it below."""
    probability = scores.probability[np.arange(len(scores.label)), scores.label]
    return -np.log(np.maximum(probability, _SMALLEST_PROBABILITY))


def ranking(scores: Scores, weights: Floats) -> dict[str, Floats]:
    """Return one-against-rest ``auroc`` and ``average_precision``, (R, K) each, NaN where undefined.

    Both follow from the weight of all images, and of those of the class, that score above an image of the
    class, or at least as high: running sums along the images sorted by score. Ties count half for AUROC. Not
    torchmetrics', which works in float32 and gives an absent class an AUROC of 0.

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


def _confusion(scores: Scores) -> Ints:
    prediction, label = torch.from_numpy(scores.prediction), torch.from_numpy(scores.label)
    return multiclass_confusion_matrix(prediction, label, num_classes=scores.probability.shape[1]).numpy()


def _class_rates(scores: Scores) -> tuple[Floats, dict[str, Floats]]:
    """Return the number of images of each class, (K,), and its rates."""
    matrix = _confusion(scores).astype(np.float64)
    labels = matrix.sum(axis=1)
    return labels, rates(np.diag(matrix), labels, matrix.sum(axis=0))


def _ranks(scores: Scores) -> dict[str, Floats]:
    """Return ``ranking`` of the images as they are, (K,) each."""
    once = np.ones((1, int(scores.group.max()) + 1))
    return {name: values[0] for name, values in ranking(scores, once).items()}
