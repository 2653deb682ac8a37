"""Results by sex, age, body site and how the diagnosis was confirmed: ``python -m benchmarks.study subgroups``.

The archive has no such columns, because HAM10000's own table may not be copied. So this needs ``SKINKD_DATA_DIR`` with
``ham10000/HAM10000_metadata.csv``. It writes benchmarks/study/subgroups.csv, from which the page takes its table.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from skinkd.analysis.statistics import paired_bootstrap
from skinkd.scoring.bootstrap import mean_intervals
from skinkd.scoring.metrics import evaluate

from .collect import Collected
from .scores import BINS, LEVEL, REPLICATES, SEED
from .verdicts import FOLDS

RESULTS = Path(__file__).with_name("subgroups.csv")
BASELINE = "supervised"
METRICS = ("accuracy", "balanced_accuracy")
SITES = {
    "head and neck": ("face", "scalp", "ear", "neck"),
    "trunk": ("back", "trunk", "chest", "abdomen", "genital"),
    "arms and legs": ("upper extremity", "lower extremity", "hand", "foot", "acral"),
}
CONFIRMED = {"histo": "histopathology", "follow_up": "follow-up", "consensus": "consensus", "confocal": "confocal"}


def attributes(table: pd.DataFrame) -> pd.DataFrame:
    """The group of each image in each attribute, with NaN where the table of HAM10000 does not know it."""
    site = {name: group for group, names in SITES.items() for name in names}
    return pd.DataFrame(
        {
            "sex": table["sex"].where(table["sex"].isin(["female", "male"])),
            "age": pd.cut(table["age"], [-1, 39, 59, 200], labels=["below 40", "40 to 59", "60 and above"]).astype(
                object
            ),
            "site": table["localization"].map(site),
            "confirmed by": table["dx_type"].map(CONFIRMED),
        }
    )


def by_group(collected: Collected, table: pd.DataFrame) -> pd.DataFrame:
    """Scores of each row on each group of images, pooled over the folds, and its difference to ``supervised``.

    Intervals are for other lesions and these trained networks. Balanced accuracy is over the classes that a group has.

    Args:
        collected: the runs; only rows that have all folds count.
        table: ``HAM10000_metadata.csv``.
    """
    rows = [row for row, runs in collected.runs.items() if len(runs) == FOLDS]
    classes = collected.every[0].classes
    groups = attributes(table).set_axis(table["image_id"])
    pooled = {row: pd.concat([run.test for run in collected.runs[row].values()]) for row in rows}
    rules = {"replicates": REPLICATES, "seed": SEED, "level": LEVEL, "calibration_bins": BINS}
    lines = []
    for attribute in groups:
        for group in groups[attribute].dropna().unique():
            inside = {
                row: every[(every["image_id"].map(groups[attribute]) == group).to_numpy()]
                for row, every in pooled.items()
            }
            base = inside[BASELINE]
            for row, part in inside.items():
                value = evaluate(part, classes, calibration_bins=BINS)
                interval = mean_intervals([part], classes, **rules)
                found = paired_bootstrap([part], [base], classes, **rules) if row != BASELINE else {}
                for metric in METRICS:
                    own = (value[metric], *interval[metric])
                    less = found.get(metric)
                    difference = (less.value, less.low, less.high) if less else (None,) * 3
                    head = (attribute, group, row, metric, len(part), part["group"].nunique(), part["label"].nunique())
                    lines.append([*head, *own, *difference])
    columns = ["attribute", "group", "row", "metric", "images", "lesions", "classes", "value", "low", "high"]
    found_table = pd.DataFrame(lines, columns=[*columns, "difference", "difference_low", "difference_high"])
    return found_table.sort_values(["attribute", "group"], kind="stable").reset_index(drop=True)


def write_results(collected: Collected) -> None:
    """Write ``RESULTS``."""
    place = Path(os.environ.get("SKINKD_DATA_DIR", "data")) / "ham10000" / "HAM10000_metadata.csv"
    by_group(collected, pd.read_csv(place)).round(6).to_csv(RESULTS, index=False)
    print(f"{RESULTS} written")


def subgroup_table(found: pd.DataFrame, rows: Sequence[str]) -> str:
    """The page's table: accuracy of ``supervised`` in each group, and what each row adds in both metrics."""
    lines = []
    header = ["", "group", "images", f"`{BASELINE}`: accuracy", "balanced accuracy"]
    header += [f"`{row}`: accuracy" for row in rows] + [f"`{row}`: balanced accuracy" for row in rows]
    for (attribute, group), part in found.groupby(["attribute", "group"], sort=False):
        cells = part.set_index(["row", "metric"])
        base = [cells.loc[(BASELINE, metric)] for metric in METRICS]
        values = [f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})" for one in base]
        added = []
        for metric in METRICS:
            for row in rows:
                one = cells.loc[(row, metric)]
                words = f"{one['difference']:+.3f} ({one['difference_low']:+.3f} to {one['difference_high']:+.3f})"
                added.append(words.replace("-", "−"))
        lines.append([str(attribute), str(group), f"{base[0]['images']:,}", *values, *added])
    marks = ["---", "---", *["---:"] * (len(header) - 2)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, marks, *lines])
