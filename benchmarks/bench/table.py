"""Tables of rows: on the terminal, within 80 columns, and in Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 80
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a section's table.

    Args:
        key: of the rows.
        head: the heading, with the unit.
        digits: after the point; None: the value is text, or a whole number.
    """

    key: str
    head: str
    digits: int | None = None

    def cell(self, row: Row) -> str:
        """The value of a row as text; empty where the row has none."""
        value = row.get(self.key)
        if value is None:
            return ""
        return str(value) if self.digits is None else f"{value:,.{self.digits}f}"


def reason(row: Row) -> str | None:
    """Why a row has no figures, or None."""
    found = row.get("error") or row.get("left out")
    return None if found is None else str(found)


def terminal(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """The rows below their headings, names to the left and numbers to the right."""
    heads = [column.head for column in columns]
    cells = [[column.cell(row) for column in columns] for row in rows]
    measured = [line for line, row in zip(cells, rows, strict=True) if reason(row) is None]
    widths = [max(len(text) for text in column) for column in zip(heads, *measured, strict=True)]
    lefts = [column.digits is None for column in columns]
    names = next((place for place, left in enumerate(lefts) if not left), len(columns))
    for place in range(names):  # a row without figures has these cells too
        widths[place] = max([widths[place], *(len(line[place]) for line in cells)])

    def line(texts: Sequence[str]) -> str:
        padded = zip(texts, widths, lefts, strict=True)
        return "  ".join(text.ljust(width) if left else text.rjust(width) for text, width, left in padded).rstrip()

    lines = [line(heads), "-" * min(sum(widths) + 2 * (len(widths) - 1), WIDTH)]
    for row, texts in zip(rows, cells, strict=True):
        why = reason(row)
        lines.append(line(texts) if why is None else f"{line([*texts[:names], *[''] * (len(columns) - names)])}  {why}")
    return "\n".join(text if len(text) <= WIDTH else text[: WIDTH - 1] + "…" for text in lines)


def markdown(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """The same table in Markdown, with no limit of width."""
    lines = [f"| {' | '.join(column.head for column in columns)} |"]
    lines.append(f"| {' | '.join('---' if column.digits is None else '---:' for column in columns)} |")
    for row in rows:
        texts, why = [column.cell(row) for column in columns], reason(row)
        if why is not None:
            first = next((place for place, text in enumerate(texts) if not text), len(texts) - 1)
            texts[first] = why
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)
