"""Scores of a prediction table by subgroup: by sex, by age band, or by any other column that is known of the images.

Subgroups of one dataset have different classes and different shares of them. So the accuracy of two subgroups differs
even if every class is found equally often in both; the sensitivities of one class are what can be compared.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from skinkd.scoring.bootstrap import draw_groups, group_sums, percentiles
from skinkd.scoring.metrics import count_metrics, per_class
from skinkd.scoring.predictions import Floats, Scores, as_scores
from skinkd.scoring.widening import Widening

UNKNOWN = "unknown"
_SCORES = ("accuracy", "balanced_accuracy")


def age_bands(ages: Sequence[str], edges: Sequence[int]) -> list[str]:
    """Return the band of each age in years, such as "30 to 44"; "" for a cell that is no age.

    Args:
        ages: cells, such as "50" or "50.0".
        edges: the first year of every band but the first, ascending.
    """
    years = pd.to_numeric(pd.Series(ages, dtype=object), errors="coerce").to_numpy(dtype=np.float64)
    names = [f"0 to {edges[0] - 1}", *(f"{low} to {high - 1}" for low, high in itertools.pairwise(edges))]
    names.append(f"{edges[-1]} or older")
    place = np.searchsorted(edges, years, side="right")
    known = np.isfinite(years) & (years >= 0)
    return [names[band] if good else "" for band, good in zip(place, known, strict=True)]


def subgroup_scores(
    table: pd.DataFrame,
    columns: pd.DataFrame,
    classes: Sequence[str],
    *,
    least_lesions: int,
    replicates: int,
    seed: int,
    level: float,
) -> pd.DataFrame:
    """Return accuracy and balanced accuracy of every subgroup, with bootstrap intervals over the subgroup's lesions.

    A subgroup with fewer than ``least_lesions`` lesions has a row with its numbers of images and lesions, and NaN as scores.
    The balanced accuracy is the mean sensitivity of those classes that have ``least_lesions`` lesions in the subgroup. It
    is NaN for fewer than two such classes. The bounds are NaN where resampling has no spread, as when every image is right.

    Args:
        table: prediction table of N images.
        columns: ``image_id``, and a column of text for each property. An empty cell, or an image without a row, is of the
            subgroup "unknown".
        classes: the K class names.
        least_lesions: see above; at least 2.
        replicates: number of resampled tables.
        seed: of the draws; the result depends neither on the order of the rows nor on other subgroups.
        level: confidence, between 0 and 1.

    Returns:
        A row for each property and value, in the order of the columns and of the sorted values, "unknown" last: property,
        value, n (images), lesions, classes (those in the balanced accuracy, joined by ", "), accuracy, accuracy_low,
        accuracy_high, balanced_accuracy, balanced_accuracy_low, balanced_accuracy_high.
    """
    rows = []
    for name, value, part in _subgroups(table, columns):
        lesions = part["group"].nunique()
        per_label = part.groupby("label")["group"].nunique()
        common = [one for one in classes if per_label.get(one, 0) >= least_lesions]
        row: dict[str, Any] = {"property": name, "value": value, "n": len(part), "lesions": lesions, "classes": ""}
        row |= {f"{score}{end}": np.nan for score in _SCORES for end in ("", "_low", "_high")}
        interval = functools.partial(_with_interval, replicates=replicates, seed=seed, level=level)
        if lesions >= least_lesions:
            row |= interval("accuracy", as_scores(part, classes))
        if len(common) > 1:
            balanced = as_scores(part[part["label"].isin(common)], classes)
            row |= {"classes": ", ".join(common), **interval("balanced_accuracy", balanced)}
        rows.append(row)
    order = ["property", "value", "n", "lesions", "classes"]
    return pd.DataFrame(rows, columns=[*order, *(f"{one}{end}" for one in _SCORES for end in ("", "_low", "_high"))])


def subgroup_sensitivity(
    table: pd.DataFrame, columns: pd.DataFrame, classes: Sequence[str], *, least_lesions: int, level: float
) -> pd.DataFrame:
    """Return the sensitivity of every class in every subgroup, with Wilson intervals as ``metrics.per_class`` has them.

    A row each for property, value and class that has an image there: property, value, class, n (images), lesions,
    sensitivity, sensitivity_low, sensitivity_high. The last three are NaN below ``least_lesions`` lesions of the class.
    The arguments are those of :func:`subgroup_scores`.
    """
    kept = ["class", "n", "lesions", "sensitivity", "sensitivity_low", "sensitivity_high"]
    found = [pd.DataFrame(columns=["property", "value", *kept])]
    for name, value, part in _subgroups(table, columns):
        rows = per_class(part, classes, level=level)[kept]
        rows = rows[rows["n"] > 0].reset_index(drop=True)
        rows.loc[rows["lesions"] < least_lesions, kept[3:]] = np.nan
        rows.insert(0, "value", value)
        rows.insert(0, "property", name)
        found.append(rows)
    return pd.concat(found[1:] or found, ignore_index=True)


def _subgroups(table: pd.DataFrame, columns: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield each property, value, and the rows of the prediction table with this value."""
    known = columns.set_index("image_id")
    for name in known.columns:
        values = table["image_id"].map(known[name]).fillna("").replace("", UNKNOWN)
        for value in sorted(set(values), key=lambda one: (one == UNKNOWN, one)):
            yield str(name), value, table[(values == value).to_numpy()]


def _with_interval(name: str, scores: Scores, *, replicates: int, seed: int, level: float) -> dict[str, float]:
    """Return a score under its name, and its bounds under ``<name>_low`` and ``<name>_high``."""
    one_hot = np.eye(scores.probability.shape[1])
    label, prediction = one_hot[scores.label], one_hot[scores.prediction]
    sums = group_sums(scores, np.hstack([label * prediction, label, prediction]))

    def score(counts: Floats) -> Floats:
        return count_metrics(*np.split(counts @ sums, 3, axis=1))[name]

    observed = float(score(np.ones((1, len(sums))))[0])
    drawn = score(draw_groups(len(sums), replicates, np.random.default_rng(seed)))
    low, high = percentiles({name: drawn}, level, Widening.of([(scores.group, scores.label)]))[name]
    return {name: observed} | ({f"{name}_low": low, f"{name}_high": high} if low < high else {})
