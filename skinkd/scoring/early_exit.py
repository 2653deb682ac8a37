"""Accuracy and cost of stopping at the first exit that is confident enough.

This is the rule of BranchyNet (Teerapittayanon et al., ICPR 2016), with the highest probability as the confidence.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from skinkd.scoring.metrics import evaluate
from skinkd.scoring.predictions import as_scores

FINAL = "final"


def early_exit_curve(
    tables: Mapping[str, pd.DataFrame],
    classes: Sequence[str],
    *,
    macs: Mapping[str, int],
    thresholds: Sequence[float],
    calibration_bins: int,
) -> pd.DataFrame:
    """Return a row for each threshold: an image leaves at the first exit whose highest probability reaches it.

    Args:
        tables: prediction tables (:mod:`skinkd.scoring.predictions`) by name: the exits in their order, then the whole
            network. All have the same images.
        classes: the K class names.
        macs: multiply-adds for one image up to each output, by the names of ``tables``.
        thresholds: an image leaves at an exit whose highest probability is at least this.
        calibration_bins: as in ``metrics.evaluate``.

    Returns:
        ``threshold``, ``accuracy``, ``balanced_accuracy``, ``macs`` (mean over images), and ``share_<name>``, the share of
        images that leave at each output. At a threshold above 1 every image leaves at the end of the network.
    """
    names = list(tables)
    scores = [as_scores(table, classes) for table in tables.values()]
    probability = np.stack([score.probability for score in scores])  # (outputs, N, K)
    cost = np.array([macs[name] for name in names], dtype=np.float64)
    # as_scores sorts by image, so row i of every output is the same image
    base = next(iter(tables.values())).sort_values("image_id").reset_index(drop=True)
    columns = [f"p_{name}" for name in classes]
    rows = []
    for threshold in thresholds:
        sure = probability.max(axis=2) >= threshold
        sure[-1] = True
        left = sure.argmax(axis=0)
        taken = probability[left, np.arange(probability.shape[1])]
        table = base.assign(prediction=[classes[k] for k in taken.argmax(axis=1)])
        table[columns] = taken
        metrics = evaluate(table, classes, calibration_bins=calibration_bins)
        row = {"threshold": threshold, **{name: metrics[name] for name in ("accuracy", "balanced_accuracy")}}
        row["macs"] = cost[left].mean()
        rows.append(row | {f"share_{name}": (left == k).mean() for k, name in enumerate(names)})
    return pd.DataFrame(rows)
