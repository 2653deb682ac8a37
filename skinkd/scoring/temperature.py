"""Temperature scaling (Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2).

It works on prediction tables. Log-probabilities serve as logits: the two differ by a constant, which softmax ignores.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import log_softmax, softmax

from skinkd.errors import check_positive
from skinkd.scoring.predictions import Floats, Scores, as_scores, probability_columns

# bounds of the temperature: if all images are predicted right, the likelihood has no optimum (the smaller, the better)
_LOWEST, _HIGHEST = 1e-2, 1e2
_SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)  # as in metrics.negative_log_likelihood


def fit_temperature(table: pd.DataFrame, classes: Sequence[str]) -> float:
    """Return the temperature T that minimises the mean negative log-likelihood of softmax(log p / T), in float64.

    Fit it on validation predictions. The negative log-likelihood is convex in 1/T, so T is the unique zero of its
    derivative. If T lies outside 0.01 to 100 (every image right, or no better than chance), the nearer bound is returned.
    """
    scores = as_scores(table, classes)
    logits = _logits(scores)
    of_label = logits[np.arange(len(logits)), scores.label]

    def slope(log_inverse: float) -> float:
        inverse = np.exp(log_inverse)
        return float(((softmax(inverse * logits, axis=1) * logits).sum(axis=1) - of_label).mean())

    first, last = -np.log(_HIGHEST), -np.log(_LOWEST)
    if np.ptp(logits, axis=1).max() == 0:
        return 1.0  # all classes are equally probable for every image, at any T
    if slope(first) >= 0:
        return _HIGHEST
    if slope(last) <= 0:
        return _LOWEST
    return float(np.exp(-brentq(slope, first, last, xtol=1e-12)))


def apply_temperature(table: pd.DataFrame, classes: Sequence[str], temperature: float) -> pd.DataFrame:
    """Return the table with probabilities softmax(log p / ``temperature``) and unchanged predictions.

    Raises:
        UserError: the temperature is not above 0.
    """
    columns = probability_columns(classes)
    result = table.copy()
    result[columns] = scaled(table[columns].to_numpy(dtype=np.float64), temperature)
    return result


def scaled(probability: Floats, temperature: float) -> Floats:
    """Return softmax(log p / ``temperature``) of each row, (N, K), float64. The order within a row stays.

    Raises:
        UserError: the temperature is not above 0.
    """
    check_positive("temperature", temperature)
    return softmax(np.log(np.maximum(probability, _SMALLEST_PROBABILITY)) / temperature, axis=1)


def largest_change(table: pd.DataFrame, classes: Sequence[str], temperature: float) -> float:
    """Return by how much ``temperature`` changes the probability that it changes most."""
    probability = table[probability_columns(classes)].to_numpy(dtype=np.float64)
    return float(np.abs(scaled(probability, temperature) - probability).max())


def _logits(scores: Scores) -> Floats:
    return log_softmax(np.log(np.maximum(scores.probability, _SMALLEST_PROBABILITY)), axis=1)
