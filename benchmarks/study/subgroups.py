"""Results by sex, age, body site and how the diagnosis was confirmed: ``python -m benchmarks.study subgroups``.

The archive has no such columns, because HAM10000's own table may not be copied. So this needs ``SKINKD_DATA_DIR`` with
``ham10000/``. It writes benchmarks/study/subgroups.csv, from which the page takes its table.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from skinkd.analysis.statistics import paired_bootstrap
from skinkd.data.ham10000 import load_ham10000
from skinkd.scoring.subgroups import UNKNOWN, age_bands, subgroup_scores

from .collect import BASELINES, Collected
from .scores import BINS, LEVEL, REPLICATES, SEED
from .verdicts import FOLDS

RESULTS = Path(__file__).with_name("subgroups.csv")
BASELINE = "supervised"
METRICS = ("accuracy", "balanced_accuracy")
LEAST_LESIONS = 20  # of a subgroup, and of a class in its balanced accuracy
AGE_EDGES = (40, 60)
SITES = {
    "head and neck": ("face", "scalp", "ear", "neck"),
    "trunk": ("back", "trunk", "chest", "abdomen", "genital"),
    "arms and legs": ("upper extremity", "lower extremity", "hand", "foot", "acral"),
}
PROPERTIES = {"sex": "sex", "age": "age", "body_site": "site", "confirmation": "confirmed by"}


def properties(images: pd.DataFrame) -> pd.DataFrame:
    """The subgroup of each image in each property, "" where it is not known.

    Args:
        images: ``image_id`` and the columns of ``PROPERTIES``, as the loader of HAM10000 returns them.
    """
    site = {name: group for group, names in SITES.items() for name in names}
    known = images[["image_id", *PROPERTIES]].replace(UNKNOWN, "")
    known["age"] = age_bands(known["age"].tolist(), AGE_EDGES)
    return known.assign(body_site=known["body_site"].map(site).fillna("")).rename(columns=PROPERTIES)


def by_group(collected: Collected, columns: pd.DataFrame) -> pd.DataFrame:
    """Scores of ``supervised`` in each subgroup, pooled over the folds, and what each method adds there.

    Args:
        collected: the runs; only methods that have all folds count.
        columns: of ``properties``.

    Returns:
        the columns of ``subgroup_scores`` for ``supervised``, and for each method and metric
        ``<method>_<metric>``, ``…_low`` and ``…_high``: the difference, with its interval for other lesions.
    """
    rows = [row for row in BASELINES if len(collected.folds(row)) == FOLDS and BASELINES[row] == BASELINE]
    classes = collected.every[0].classes
    base, *others = (pd.concat([run.test for run in collected.once(row)]) for row in (BASELINE, *rows))
    rules = {"replicates": REPLICATES, "seed": SEED, "level": LEVEL}
    found = subgroup_scores(base, columns, classes, least_lesions=LEAST_LESIONS, **rules)
    found = found[found["value"] != UNKNOWN].reset_index(drop=True)
    known = columns.set_index("image_id")
    for line, group in found.iterrows():
        inside = known.index[known[group["property"]] == group["value"]]
        parts = [table[table["image_id"].isin(inside)] for table in (base, *others)]
        common = [part[part["label"].isin(group["classes"].split(", "))] for part in parts]
        for metric, (fair, *own) in zip(METRICS, (parts, common), strict=True):
            for row, table in zip(rows, own, strict=True):
                if len(fair):  # balanced accuracy needs two classes
                    one = paired_bootstrap([table], [fair], classes, calibration_bins=BINS, **rules)[metric]
                    found.loc[line, [f"{row}_{metric}{end}" for end in ("", "_low", "_high")]] = (
                        one.value,
                        one.low,
                        one.high,
                    )
    return found


def write_results(collected: Collected) -> None:
    """Write ``RESULTS``."""
    root = Path(os.environ.get("SKINKD_DATA_DIR", "data")) / "ham10000"
    columns = properties(load_ham10000(root, on_bad_image="error").frame)
    by_group(collected, columns).round(6).to_csv(RESULTS, index=False)
    print(f"{RESULTS} written")


def methods_in(found: pd.DataFrame) -> list[str]:
    """The methods of a table of ``by_group``."""
    return [row for row in BASELINES if f"{row}_{METRICS[0]}" in found]


def subgroup_table(found: pd.DataFrame) -> str:
    """The page's table: both scores of ``supervised`` in each subgroup, and what each method adds to balanced accuracy."""
    rows = methods_in(found)
    header = ["", "subgroup", "images", "`supervised`: accuracy", "balanced accuracy", *(f"`{row}`" for row in rows)]
    lines = [header, ["---", "---", *["---:"] * (len(header) - 2)]]
    for _, line in found.iterrows():
        own = [interval(line, metric, ".3f") for metric in METRICS]
        added = [interval(line, f"{row}_balanced_accuracy", "+.3f") for row in rows]
        lines.append([line["property"], line["value"], f"{line['n']:,}", *own, *added])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval(line: pd.Series, name: str, form: str) -> str:
    """A value of a line with its interval; "–" if there is none."""
    values: Sequence[float] = [line[f"{name}{end}"] for end in ("", "_low", "_high")]
    if pd.isna(values[0]):
        return "–"
    value, low, high = (f"{value:{form}}".replace("-", "−") for value in values)
    return f"{value} ({low} to {high})"
