"""The table of predictions. Every metric is computed from it.

It has one row for each image, with ``image_id`` (unique, ascending), ``group`` (lesion), ``label`` and ``prediction``
(class names), and a probability column ``p_<class>`` for each class, in class order.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skinkd.errors import UserError
from skinkd.runs.cells import original_table

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# the sum of a softmax differs from 1 by 1e-6 in float32 and by 1e-2 in half precision; the sum of logits by far more
_SUM_TOLERANCE = 1e-3


class Scores(NamedTuple):
    """A prediction table as arrays, in order of ``image_id``.

    Attributes:
        label: class index of the label, (N,).
        prediction: class index of the prediction, (N,).
        probability: float64, (N, K).
        group: number of the image's lesion among the sorted names of the table's lesions, (N,).
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

    Samples that a distributed sampler repeated are dropped (the first stays), so that any number of processes
    gives the same table. The prediction is the most probable class; among equals, the first in class order.

    Args:
        rows: the images of the evaluated part, one row each: ``image_id``, ``group`` and ``label`` (class name). Its
            pandas index holds the numbers of ``Batch.index``.
        index: row numbers as gathered, in any order, (M,) with M ≥ N images.
        probabilities: class probabilities of those rows, (M, K); each row sums to 1.
        classes: the K class names.

    Raises:
        ValueError: an image of ``rows`` has no prediction, or a shape, row number, label or sum is wrong.
        UserError: a probability is not finite, because the training diverged.
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
    """Read a prediction table that ``RunFolder.write_csv`` wrote; return it and its classes.

    Names that look like numbers stay names, and probabilities are read to the last bit.

    Raises:
        UserError: the file is missing or is not a prediction table.
    """
    names = ["image_id", "group", "label", "prediction"]
    try:
        # read as text first: not every version of pandas reads the last bit of a float
        table = original_table(pd.read_csv(path, dtype=str, keep_default_na=False))
        columns = [column for column in table.columns if column.startswith("p_")]
        table = table.astype(dict.fromkeys(columns, np.float64))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read predictions from {path}: {error}") from error
    classes = [column.removeprefix("p_") for column in columns]
    if not classes or set(names) - set(table.columns) or table.empty:
        raise UserError(f"{path} is not a table of predictions: it needs rows with {', '.join(names)} and p_<class>")
    return table, classes


def as_scores(table: pd.DataFrame, classes: Sequence[str]) -> Scores:
    """Return a prediction table as arrays, which do not depend on the order of its rows.

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
