"""Markdown of texts that others wrote: names of classes, of datasets and of folders show as they are, and mark nothing up."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

# a mark of Markdown or HTML at any place; "_" inside a word is no mark
_MARKS = re.compile(r"[\\`*\[\]<>|~$#&]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.|@", re.IGNORECASE)


def escaped(value: Any) -> str:
    """Return a value so that Markdown shows it as it is, on one line; text that this module made stays as it is."""
    if isinstance(value, Markup):
        return str(value)
    return _MARKS.sub(lambda mark: f"\\{mark[0]}", one_line(str(value)))


def one_line(text: str) -> str:
    """Return a text without line ends, control characters, and characters that turn the direction of reading."""
    visible = (" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in text)
    return " ".join("".join(visible).split())


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], numbers: int = 0) -> Markup:
    """Return a Markdown table; its last ``numbers`` columns are aligned to the right."""
    marks = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    lines = [[escaped(cell) for cell in row] for row in (header, *rows)]
    lines.insert(1, marks)
    return Markup("\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def score(value: float | None) -> str:
    """Return a score with three decimals, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def interval(low: float | None, high: float | None) -> str:
    """Return the bounds of an interval, or a dash."""
    return "–" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def number(value: Any) -> Any:
    """Return a cell as a table shows it: a float with three decimals, or whole from 100 on; a dash for None."""
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
    return "–" if value is None else value


def count(value: float) -> str:
    """Return a large number in words that can be read aloud."""
    for size, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if value >= size:
            return f"{value / size:.1f} {word}"
    return str(value)
