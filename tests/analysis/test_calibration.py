"""Reliability against plain counting."""

import numpy as np
import pytest
from prediction_tables import make_table, names, random_logits
from scipy.special import softmax

from skinkd.analysis.calibration import reliability
from skinkd.scoring.metrics import evaluate


@pytest.mark.parametrize(("n", "k", "bins"), [(1, 2, 10), (80, 3, 15), (500, 7, 4), (200, 2, 1)])
def test_reliability_is_plain_counting_and_adds_up_to_the_ece(n: int, k: int, bins: int) -> None:
    label, logits = random_logits(n, n, k)
    logits[0] = [0.0, *[-1e3] * (k - 1)]  # a confidence of 1
    table = make_table(label, softmax(logits, axis=1))
    got = reliability(table, names(k), calibration_bins=bins)
    assert len(got) == bins
    sure = [float(row[f"p_{row['prediction']}"]) for _, row in table.iterrows()]
    for m, row in got.iterrows():
        inside = [i for i, c in enumerate(sure) if row["low"] < c <= row["high"] or (m == 0 and c == 0)]
        assert row["n"] == len(inside)
        if inside:
            assert row["confidence"] == pytest.approx(np.mean([sure[i] for i in inside]))
            right = [table["prediction"][i] == table["label"][i] for i in inside]
            assert row["accuracy"] == pytest.approx(np.mean(right))
        else:
            assert np.isnan(row["confidence"]) and np.isnan(row["accuracy"])
    gap = (got["n"] * (got["accuracy"] - got["confidence"]).abs()).sum() / got["n"].sum()
    assert gap == pytest.approx(evaluate(table, names(k), calibration_bins=bins)["ece"], abs=1e-12)
