"""How the comparison shows a number: cells, tables, and the words of values, differences, intervals and durations."""

import math
from dataclasses import dataclass

import pandas as pd

UNDEFINED = "-"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: the words or the rounded number.
        note: a second, smaller line; "" for none.
        bold: whether the text is bold; the table's caption says why.
        value: the unrounded number, to sort by; None for words.
    """

    text: str
    note: str = ""
    bold: bool = False
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """A table, ready to print.

    Attributes:
        name: a short name for labels and anchors.
        title: the heading.
        caption: one sentence on the numbers, intervals and tests.
        more: further explanation; may be "".
        header: the heading of each column.
        rows: rows of cells, as many as columns.
        words: number of columns of words, at the left; the other columns are numbers.
    """

    name: str
    title: str
    caption: str
    more: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: int


def number(value: float | None) -> str:
    """Format a number with three decimals."""
    return UNDEFINED if value is None or math.isnan(value) else f"{value:.3f}"


def difference(value: float) -> str:
    """Format a difference with three decimals and a sign."""
    return UNDEFINED if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def bounds(low: float, high: float) -> str:
    """Format an interval; "" if it is undefined."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"{low:.3f} to {high:.3f}".replace("-", "−")


def spread(mean: float, sd: float) -> str:
    """Format mean ± standard deviation; the standard deviation of a single run is -."""
    return UNDEFINED if math.isnan(mean) else f"{mean:.3f} ± {number(sd)}"


def p_value(value: float) -> str:
    """Format a p-value with three decimals, or as < 0.001."""
    if math.isnan(value):
        return UNDEFINED
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def amount(value: float) -> str:
    """Format a number of parameters or multiply-adds with three digits and k, M or G."""
    if math.isnan(value):
        return UNDEFINED
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= 0.9995 * factor:
            return f"{value / factor:#.3g}".rstrip(".") + unit
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Format a duration in seconds, minutes, or hours and minutes."""
    if math.isnan(seconds):
        return UNDEFINED
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def time_unit(most: float) -> tuple[int, str]:
    """Return the unit for an axis up to ``most`` seconds: its length in seconds, and its name."""
    return next((size, unit) for size, unit in ((3600, "h"), (60, "min"), (1, "s")) if most >= 3 * size or size == 1)


def percent(level: float) -> str:
    """Format a confidence, such as 95 %."""
    return f"{100 * level:g} %"


def digits(value: float) -> str:
    """Format a value with three digits that count."""
    return UNDEFINED if math.isnan(value) else f"{value:#.3g}".rstrip(".")


def count(value: float | None) -> Cell:
    """Return the cell of a whole number."""
    undefined = value is None or pd.isna(value)
    return Cell(UNDEFINED) if undefined else Cell(f"{value:,.0f}", value=float(value))  # type: ignore[arg-type]
