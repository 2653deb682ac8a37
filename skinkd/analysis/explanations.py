"""Where the networks of a comparison look: the explanation scores of their runs, and differences to the baseline's."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skinkd.analysis.aggregate import Protocol
from skinkd.analysis.rows import Row
from skinkd.analysis.runs import Run
from skinkd.analysis.statistics import holm
from skinkd.config.stored import read_stored
from skinkd.errors import UserError
from skinkd.runs.cells import original_table
from skinkd.scoring.bootstrap import draw_groups

FOLDER, OUTPUT, CROP = "explanations", "final", "standard"
SCORES = {
    "energy": "energy on the lesion",
    "auc": "AUC against the mask",
    "insertion": "insertion",
    "deletion": "deletion (lower is better)",
}
"""The scores of maps that are compared, and their names in print."""
MARK = "†"
"""Stands beside a method whose maps do not depend on what was learned."""
COLUMNS = ("map", "score", "row", "depends", "mean", "sd", "low", "high", "baseline", "difference", "difference_low",
           "difference_high", "p", "p_holm")  # fmt: skip
_PLACES = ("run", "out", "input", "paths", "sheet", "batch")  # settings of an explanation that change no score


def read_scores(run: Run) -> pd.DataFrame | None:
    """Return the scores of a run's maps by image and method, of the final output; None: the run was not explained.

    Raises:
        UserError: the table cannot be read.
    """
    folder = run.folder / FOLDER
    if not (folder / "scores.json").is_file():  # written last, so it marks a whole folder
        return None
    try:
        table = original_table(pd.read_csv(folder / "scores.csv", dtype={"image_id": str, "group": str}))
        chosen = (table["output"] == OUTPUT) & (table["crop"] == CROP) & (table["kind"] == "method")
        kept = ["image_id", "group", "map", *(name for name in SCORES if name in table)]
        return table.loc[chosen, kept].set_index(["map", "image_id"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder / 'scores.csv'} cannot be read as scores of explanations ({error}); make it again with "
            f"python -m skinkd.explain run={run.folder}"
        ) from None


def depends(row: Row, name: str) -> bool:
    """Return whether the maps of a method depend on what was learned, by the sanity checks of every run of a row.

    Raises:
        UserError: the scores of a run cannot be read.
    """
    return all(_verdict(run.folder, name) for run in row.runs)


def _verdict(folder: Path, name: str) -> bool:
    file = folder / FOLDER / "scores.json"
    try:
        return bool(json.loads(file.read_text("utf-8")).get(f"{OUTPUT}/{name}/depends", True))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{file} cannot be read ({error}); make it again with python -m skinkd.explain run={folder}"
        ) from None


def settings_of(folder: Path) -> Mapping[str, object]:
    """Return the settings that the scores of a folder of explanations depend on."""
    return {key: value for key, value in read_stored(folder / "config.yaml").items() if key not in _PLACES}


def compare_explanations(
    rows: Sequence[Row],
    baselines: Mapping[str, str],
    protocol: Protocol,
    progress: Callable[[str], object] = lambda text: None,
) -> tuple[pd.DataFrame, list[str]]:
    """Compare the explanation scores of the rows of which every run was explained.

    The value of an image is its mean over the runs of a row. ``sd`` is the spread of the runs' means. Intervals resample the
    lesions of the images. The difference to the baseline is paired by image, and its p is that of the paired bootstrap of
    ``statistics.paired_bootstrap``: twice the smaller share of replicates on one side of 0, the observed table among them.

    Returns:
        Columns ``COLUMNS``, with ``depends`` of :func:`depends` and with Holm's adjustment over the rows for each map and
        score; and remarks for the reader.
    """
    tables = {row.label: [read_scores(run) for run in row.runs] for row in rows}
    known = {label: found for label, runs in tables.items() if (found := [t for t in runs if t is not None])}
    known = {label: found for label, found in known.items() if len(found) == len(tables[label])}
    nothing = pd.DataFrame(columns=list(COLUMNS))
    if not known:
        return nothing, []
    notes = [
        f"Not every run is explained, so where it looks is not compared: {row.label}."
        for row in rows
        if row.label not in known
    ]
    made = [settings_of(run.folder / FOLDER) for row in rows if row.label in known for run in row.runs]
    if any(settings != made[0] for settings in made):
        return nothing, [
            *notes,
            "Explanations with different settings are not compared; make them again with equal settings.",
        ]
    progress("explanations")
    lines = []
    for row in (row for row in rows if row.label in known):
        own, base = known[row.label], known.get(baselines.get(row.label, ""))
        for name in own[0].index.get_level_values("map").unique():
            learned = depends(row, name)
            for score in (score for score in SCORES if score in own[0]):
                line = {
                    "map": name,
                    "score": score,
                    "row": row.label,
                    "depends": learned,
                    **_mean(own, name, score, protocol),
                }
                if base is not None:
                    line |= {"baseline": baselines[row.label], **_difference(own, base, name, score, protocol)}
                lines.append(line)
    table = pd.DataFrame(lines).reindex(columns=list(COLUMNS))
    for _, index in table[table["p"].notna()].groupby(["map", "score"]).groups.items():
        table.loc[index, "p_holm"] = holm(table.loc[index, "p"].astype(float).tolist())
    return table.sort_values(["map", "score"], kind="stable", ignore_index=True), notes


def _of_images(tables: Sequence[pd.DataFrame], name: str, score: str) -> pd.DataFrame:
    """Return of each image its lesion and its mean value over the runs that have it."""
    parts = pd.concat([table.loc[[name]].reset_index() for table in tables])
    return parts.groupby("image_id").agg(group=("group", "first"), value=(score, "mean")).dropna()


def _mean(tables: Sequence[pd.DataFrame], name: str, score: str, protocol: Protocol) -> dict[str, float]:
    of_runs = pd.Series([table.loc[[name], score].mean() for table in tables])
    images = _of_images(tables, name, score)
    low, high = _bounds(_replicates(images, protocol), protocol.level)
    return {"mean": float(of_runs.mean()), "sd": float(of_runs.std(ddof=1)), "low": low, "high": high}


def _difference(
    own: Sequence[pd.DataFrame], base: Sequence[pd.DataFrame], name: str, score: str, protocol: Protocol
) -> dict[str, float]:
    if name not in base[0].index.get_level_values("map") or score not in base[0]:
        return {}
    mine, theirs = _of_images(own, name, score), _of_images(base, name, score)
    pairs = mine.join(theirs["value"].rename("other"), how="inner")
    pairs = pairs.assign(value=pairs["value"] - pairs["other"])
    if pairs.empty:
        return {}
    drawn = _replicates(pairs, protocol)
    low, high = _bounds(drawn, protocol.level)
    tail = (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / (1 + len(drawn))
    return {
        "difference": float(pairs["value"].mean()),
        "difference_low": low,
        "difference_high": high,
        "p": float(min(1.0, 2 * tail)),
    }


def _replicates(images: pd.DataFrame, protocol: Protocol) -> NDArray[np.float64]:
    """Return the mean value in each resampling of the lesions, (R,)."""
    number = np.unique(images["group"].to_numpy(str), return_inverse=True)[1]
    total, n = np.bincount(number, weights=images["value"]), np.bincount(number)
    drawn = draw_groups(len(n), protocol.replicates, np.random.default_rng(protocol.seed))
    return (drawn @ total) / (drawn @ n)


def _bounds(drawn: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
