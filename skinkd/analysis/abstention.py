"""Selective prediction in a comparison: risk against coverage, and what abstention does to each class, over a row's runs."""

import numpy as np
import pandas as pd

from skinkd.analysis.rows import Row
from skinkd.scoring.selective import abstention_threshold, aurc, risk_coverage, selective_by_class

COVERAGE = 0.8
"""The share of its validation images on which a run does not abstain."""
ALL = "all"
"""The line of all images, among the lines of the classes."""
COLUMNS = ("row", "class", "n", "coverage", "accuracy", "accuracy_kept", "aurc", "aurc_excess")
_POINTS = np.linspace(0.05, 1, 96)  # of a curve; below, a few images decide


def abstention_lines(row: Row) -> pd.DataFrame:
    """Return a line for each class and one for ``ALL`` images: means over the runs, each with a threshold from its validation.

    Columns: ``COLUMNS``. ``n`` is the number of test images, added up over folds and not over runs of one test set; coverage,
    accuracy and accuracy_kept are those of ``selective_by_class``; aurc and aurc_excess belong to all images alone. There is no
    line if a run has no validation predictions.
    """
    if any(run.val is None for run in row.runs):
        return pd.DataFrame(columns=list(COLUMNS))
    tables = []
    for run in row.runs:
        assert run.val is not None
        threshold = abstention_threshold(run.val, run.classes, coverage=COVERAGE)
        tables.append(selective_by_class(run.test, run.classes, threshold=threshold).set_index("class"))
    result = pd.concat(tables).groupby(level=0, sort=False)[["coverage", "accuracy", "accuracy_kept"]].mean()
    of_fold = {run.place[0]: table["n"] for run, table in zip(row.runs, tables, strict=True)}
    result["n"] = sum(of_fold.values())
    areas = np.mean([aurc(run.test, run.classes) for run in row.runs], axis=0)
    for name, area in zip(("aurc", "aurc_excess"), areas, strict=True):
        result.loc[ALL, name] = area
    return result.rename_axis("class").reset_index().assign(row=row.label)[list(COLUMNS)]


def risk_lines(row: Row) -> pd.DataFrame:
    """Return the risk–coverage curve of the test part, mean over the runs: row, coverage, risk."""
    curves = [risk_coverage(run.test, run.classes) for run in row.runs]
    risk = np.mean([np.interp(_POINTS, curve["coverage"], curve["risk"]) for curve in curves], axis=0)
    return pd.DataFrame({"row": row.label, "coverage": _POINTS, "risk": risk})
