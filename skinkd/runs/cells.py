"""Text in CSV files that spreadsheets open: no cell is a formula, and our own readers get the same text back.

A spreadsheet runs a cell that begins with ``=``, ``+``, ``-`` or ``@``. An apostrophe before it makes it text. A cell that has
apostrophes there already gets another, so that no two texts become the same. Numbers stay as they are.
"""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def harmless(cell: Any) -> Any:
    """Return a cell as it is written."""
    if not isinstance(cell, str) or not _FORMULA.match(cell) or _is_number(cell):
        return cell
    return f"'{cell}"


def original(cell: Any) -> Any:
    """Return the cell that :func:`harmless` made this one from."""
    return cell[1:] if isinstance(cell, str) and cell.startswith("'") and _FORMULA.match(cell) else cell


def harmless_table(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return the table as it is written, its header too."""
    return _mapped(frame, harmless).rename(columns=harmless)


def original_table(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return the table that :func:`harmless_table` made this one from."""
    return _mapped(frame, original).rename(columns=original)


def _mapped(frame: "pd.DataFrame", change: Any) -> "pd.DataFrame":
    texts = [name for name in frame.columns if frame[name].dtype.kind not in "biufcmM"]
    changed = [name for name in texts if any(change(cell) is not cell for cell in frame[name])]
    return frame.assign(**{name: frame[name].astype(object).map(change) for name in changed})


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
