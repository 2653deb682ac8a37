"""Images and predictions made of random numbers."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from skinkd.scoring.predictions import prediction_table

CLASSES = ("akiec", "bcc", "mel", "nv")
SHARES = (0.15, 0.2, 0.25, 0.4)

MakeRun = Callable[..., Path]


def image_rows(
    classes: Sequence[str], *, images: int, fold: int | None, seed: int = 0, prefix: str = "test"
) -> pd.DataFrame:
    """Images, about two of a lesion; the same for every run of a fold."""
    rng = np.random.default_rng([seed, images, 0 if fold is None else fold + 1])
    shares = np.array(SHARES[: len(classes)]) if len(classes) <= len(SHARES) else np.ones(len(classes))
    lesion = np.sort(rng.integers(images // 2 + 1, size=images))
    label_of = rng.choice(len(classes), size=images // 2 + 1, p=shares / shares.sum())
    label_of[: len(classes)] = np.arange(len(classes))
    lesion[: len(classes)] = np.arange(len(classes))  # every class is there
    name = prefix if fold is None else f"{prefix}{fold}"
    return pd.DataFrame(
        {
            "image_id": [f"{name}_{number:05d}" for number in range(images)],
            "group": [f"{name}_lesion_{number}" for number in lesion],
            "label": [classes[label_of[number]] for number in lesion],
        }
    )


def predictions(rows: pd.DataFrame, classes: Sequence[str], *, skill: float, seed: int) -> pd.DataFrame:
    """Random probabilities; the larger ``skill``, the likelier the right class; the same seed, the same noise."""
    rng = np.random.default_rng(seed)
    labels = rows["label"].map({name: number for number, name in enumerate(classes)}).to_numpy()
    logits = rng.normal(size=(len(rows), len(classes))) + skill * np.eye(len(classes))[labels]
    probability = np.exp(1.5 * logits)
    probability /= probability.sum(axis=1, keepdims=True)
    return prediction_table(rows.reset_index(drop=True), np.arange(len(rows)), probability, classes)
