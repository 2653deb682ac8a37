"""Reads ``history.csv``, a row for each epoch, during the run or after it."""

import csv
import math
from pathlib import Path
from typing import NamedTuple

from skinkd.errors import UserError

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
        UserError: the file is damaged: it is no table, or a cell is neither empty nor a number.
    """
    try:
        with (run / FILE).open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file, strict=True)
            rows = [{name: _number(name, cell) for name, cell in row.items()} for row in table]
    except FileNotFoundError:
        return History((), [])
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{FILE} of {run} is damaged ({error}); {_REPAIR}") from None
    if rows and not {"epoch", "seconds"} <= set(rows[0]):
        raise UserError(f"{FILE} of {run} is damaged (it lacks the columns epoch and seconds); {_REPAIR}")
    return History(tuple(table.fieldnames or ()), rows)


_REPAIR = "an unfinished run writes it anew from its checkpoint when its command is given again"


def _number(name: str | None, cell: str | list[str] | None) -> float:
    try:
        return float(cell) if cell else math.nan  # type: ignore[arg-type] # a list if a row is too long
    except (ValueError, TypeError):
        raise UserError(f"{name} in {FILE} is not a number in every row; {_REPAIR}") from None
