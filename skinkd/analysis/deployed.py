"""What the runs of a row are once exported: size, latency and scores of the float32 and the int8 file."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from skinkd.analysis.rows import Row
from skinkd.errors import UserError

FILES = {"fp32": "float32", "int8": "int8"}
COSTS = {"latency_1_ms": "latency of one image, ms", "size_mb": "size, MB"}
SCORES = ("accuracy", "balanced_accuracy")
COLUMNS = ("row", "exports", *(f"{name}_{file}" for name in (*COSTS, *SCORES) for file in FILES))


def deployed_lines(rows: Sequence[Row]) -> pd.DataFrame:
    """Return a line for each row with an export in a run folder: ``COLUMNS``, means over the runs with an export.

    Raises:
        UserError: an export's before_after.json is damaged.
    """
    lines = []
    for row in rows:
        files = [run.folder / "export" / "before_after.json" for run in row.runs]
        found = [_read(file) for file in files if file.is_file()]
        if found:
            means = {name: float(np.mean([one[name] for one in found])) for name in COLUMNS[2:]}
            lines.append({"row": row.label, "exports": len(found), **means})
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _read(file: Path) -> dict[str, float]:
    try:
        rows = {line["name"]: line for line in json.loads(file.read_text("utf-8"))["rows"]}
        return {
            f"{name}_{kind}": float(rows[name][kind]) if name in rows else float("nan")
            for name in (*COSTS, *SCORES)
            for kind in FILES
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} cannot be read ({error}); export the run again with force=true, or remove the folder"
        ) from None
