"""From the table of scores to means, to differences to the centre prior, and to what a method depends on."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from skinkd.explanation.explain import FLIPPED, MOVED, SHORTCUTS, STANDARD, UNTRAINED
from skinkd.explanation.sanity import HEAD
from skinkd.explanation.scores import FAITHFULNESS, LOCALISATION
from skinkd.scoring.bootstrap import draw_groups

PRIOR = "centre"
"""The null map that localisation is compared with: it never saw the image."""
NOT_LEARNED = "does not depend on what was learned"


def interval(
    values: np.ndarray, groups: Sequence[str], *, replicates: int, seed: int, level: float
) -> tuple[float, float, float]:
    """Return the mean of the values without NaN, and its percentile interval by resampling lesions; NaN without values.

    Args:
        values: of N images.
        groups: their lesions.
        replicates: number of resamplings.
        seed: of the draws.
        level: confidence, between 0 and 1.
    """
    known = ~np.isnan(values)
    if not known.any():
        return (float("nan"),) * 3
    number = np.unique(np.asarray(groups, dtype=str)[known], return_inverse=True)[1]
    total, n = np.bincount(number, weights=values[known]), np.bincount(number)
    drawn = draw_groups(len(n), replicates, np.random.default_rng(seed))
    means = (drawn @ total) / (drawn @ n)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values[known].mean()), float(low), float(high)


def summarise(table: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row for each output, crop and map: the mean of every score, and paired differences to the centre prior.

    Args:
        table: of :func:`skinkd.explanation.explain.explain_all`.
        settings: of ``conf/explain.yaml``.

    Returns:
        Columns output, crop, kind, map, n, each score, each ``<score>_over_centre`` with ``_low`` and ``_high``, and for a
        method ``depends``: False if a sanity check finds that the map does not depend on what was learned.
    """
    scores = [name for name in (*LOCALISATION, *FAITHFULNESS, *SHORTCUTS) if name in table]
    checks = [name for name in table.columns if name.startswith(UNTRAINED) or name == FLIPPED]
    rows = []
    for (output, crop, kind, name), part in table.groupby(["output", "crop", "kind", "map"], sort=False):
        row: dict[str, Any] = {"output": output, "crop": crop, "kind": kind, "map": name, "n": len(part)}
        row |= {score: part[score].mean() for score in (*scores, *checks)}
        prior = table[(table["output"] == output) & (table["crop"] == crop) & (table["map"] == PRIOR)]
        for score in (score for score in LOCALISATION if score in table):
            mean, low, high = interval(
                part[score].to_numpy(float) - prior.set_index("image_id")[score].loc[part["image_id"]].to_numpy(float),
                part["group"].tolist(),
                replicates=settings["evaluation"]["bootstrap_replicates"],
                seed=settings["seed"],
                level=settings["evaluation"]["interval"],
            )
            row |= {f"{score}_over_centre": mean, f"{score}_over_centre_low": low}
            row |= {f"{score}_over_centre_high": high}
        rows.append(row)
    found = pd.DataFrame(rows)
    depends = [_depends(row, settings["sanity"]["limit"]) for _, row in found.iterrows()]
    return found.assign(depends=pd.Series(depends, dtype=object))


def _depends(row: pd.Series, limit: float) -> bool | None:
    """Return whether a method's map changes with the classifier and with all weights; None where that is not measured."""
    if row["kind"] == "null" or row["crop"] == MOVED:
        return None
    known = [row[name] for name in (f"{UNTRAINED}{HEAD}", f"{UNTRAINED}1.00") if not np.isnan(row[name])]
    return max(known) <= limit if known else None


def flat(summary: pd.DataFrame) -> dict[str, float | bool | int]:
    """Return a summary as flat numbers, ``<output>/<map>/<score>`` and ``<output>/<map>/off-centre/<score>``, without NaN."""
    numbers: dict[str, float | bool | int] = {}
    for _, row in summary.iterrows():
        place = f"{row['output']}/{row['map']}/" + ("" if row["crop"] == STANDARD else f"{row['crop']}/")
        for name, value in row.drop(["output", "crop", "kind", "map"]).items():
            if value is not None and not pd.isna(value):
                numbers[place + str(name)] = value.item() if isinstance(value, np.generic) else value
    return numbers


def not_learned(summary: pd.DataFrame) -> set[tuple[str, str]]:
    """Return the (output, method) pairs whose maps do not depend on what was learned."""
    marked = summary[summary["depends"].eq(False)]
    return set(zip(marked["output"], marked["map"], strict=True))
