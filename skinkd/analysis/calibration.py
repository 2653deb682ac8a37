"""Reliability diagrams of prediction tables (Guo et al. 2017, On Calibration of Modern Neural Networks, section 2)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from skinkd.scoring.metrics import calibration_bin, confidence
from skinkd.scoring.predictions import as_scores


def reliability(table: pd.DataFrame, classes: Sequence[str], *, calibration_bins: int) -> pd.DataFrame:
    """Return the reliability diagram of the predicted class: a row for each of ``calibration_bins`` equal bins.

    Columns: low, high (edges; a confidence c is in a bin if low < c ≤ high, and 0 in the first), confidence (mean),
    accuracy, n (images). Confidence and accuracy of an empty bin are NaN. The sum of n·|accuracy − confidence| over n is
    the ``ece`` of ``metrics.evaluate``.
    """
    scores = as_scores(table, classes)
    sure, right = confidence(scores), scores.prediction == scores.label
    place = calibration_bin(sure, calibration_bins)
    n = np.bincount(place, minlength=calibration_bins)
    edges = np.arange(calibration_bins + 1) / calibration_bins
    with np.errstate(invalid="ignore"):
        means = [np.bincount(place, weights=column, minlength=calibration_bins) / n for column in (sure, right)]
    return pd.DataFrame({"low": edges[:-1], "high": edges[1:], "confidence": means[0], "accuracy": means[1], "n": n})
