"""Reads ``history.csv``, a row for each epoch, during the run or after it."""

import csv
import math
from pathlib import Path
from typing import NamedTuple

FILE = "history.csv"


class History(NamedTuple):
    """The complete epochs of a run.

    Attributes:
        columns: names of the columns; () if the run has no epoch yet.
        rows: a mapping from column to number for each epoch, in order; NaN for a cell without a number.
    """

    columns: tuple[str, ...]
    rows: list[dict[str, float]]

    @property
    def seconds(self) -> float:
        """Seconds of all epochs together."""
        return sum(row["seconds"] for row in self.rows)

    def values(self, column: str) -> list[float]:
        """Return the values of a column, NaN throughout if the history lacks it."""
        return [row.get(column, math.nan) for row in self.rows]


def read_history(run: Path) -> History:
    """Read the history of a run folder; it has no rows if the run has no epoch yet.

    Raises:
        ValueError: a cell is neither empty nor a number.
    """
    try:
        with (run / FILE).open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            rows = [{name: _number(name, cell) for name, cell in row.items()} for row in table]
            return History(tuple(table.fieldnames or ()), rows)
    except FileNotFoundError:
        return History((), [])


def _number(name: str, cell: str | None) -> float:
    try:
        return float(cell) if cell else math.nan
    except ValueError:
        raise ValueError(f"{name} in {FILE} is not a number in every row") from None
