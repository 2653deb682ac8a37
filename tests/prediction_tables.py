"""Prediction tables made of random numbers, for tests of probabilities."""

import numpy as np
import pandas as pd

from skinkd.scoring.predictions import probability_columns


def names(k: int) -> list[str]:
    return [f"c{i}" for i in range(k)]


def make_table(label: np.ndarray, probability: np.ndarray) -> pd.DataFrame:
    classes = np.array(names(probability.shape[1]), dtype=object)
    ids = [f"im{i:05d}" for i in range(len(label))]
    table = pd.DataFrame({"image_id": ids, "group": ids, "label": classes[label]})
    table["prediction"] = classes[probability.argmax(axis=1)]
    table[probability_columns(names(len(classes)))] = probability
    return table


def random_logits(seed: int, n: int, k: int, signal: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(k, size=n)
    return label, 2 * rng.normal(size=(n, k)) + signal * np.eye(k)[label]
