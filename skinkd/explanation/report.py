"""The summary that ends the verb, within 80 columns."""

from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from skinkd.explanation.explain import FLIPPED, MOVED, SHORTCUTS, STANDARD, untrained_columns
from skinkd.explanation.outputs import Output
from skinkd.explanation.scores import FAITHFULNESS, LOCALISATION
from skinkd.explanation.sheets import MARK
from skinkd.explanation.summary import NOT_LEARNED, PRIOR, not_learned
from skinkd.runs.tables import plain_table, shown_number


def print_summary(
    summary: pd.DataFrame,
    outputs: list[Output],
    *,
    folder: Path,
    settings: dict[str, Any],
    console: Console | None = None,
) -> None:
    """Print for each output the scores of methods and null maps, the differences to the centre prior, and the sanity checks.

    Args:
        summary: of :func:`skinkd.explanation.summary.summarise`.
        outputs: of the network.
        folder: where the files are.
        settings: of ``conf/explain.yaml``.
        console: where to print; standard output if None.
    """
    console = console or Console(highlight=False)
    marked = not_learned(summary)
    for output in outputs:
        own = summary[summary["output"] == output.name]
        where = (
            "" if output.layer is None else f"; maps of {output.layer.name}, {'×'.join(map(str, output.layer.cells))}"
        )
        console.print()
        console.print(Text(f"{output.name}{where}", style="bold"), soft_wrap=True)
        _print_scores(console, own[own["crop"] == STANDARD], "scores", marked)
        _print_scores(console, own[own["crop"] == MOVED], "off the centre", marked)
        _print_differences(console, own, marked, settings)
        _print_sanity(console, own, marked, settings)
        _print_shortcuts(console, own[own["crop"] == STANDARD], marked)
    if marked:
        console.print(f"\n{MARK} {NOT_LEARNED}")
    console.print("\nmaps, sheets and scores:")
    console.print(Text(str(folder)), soft_wrap=True)


def _name(row: pd.Series, marked: set[tuple[str, str]]) -> str:
    return f"{row['map']} {MARK}" if (row["output"], row["map"]) in marked else str(row["map"])


def _print_scores(console: Console, rows: pd.DataFrame, title: str, marked: set[tuple[str, str]]) -> None:
    names = [name for name in (*LOCALISATION, *FAITHFULNESS) if name in rows and rows[name].notna().any()]
    if not names:
        return
    table = plain_table(f"{title}, {int(rows['n'].max())} images", *names)
    for kind in ("method", "null"):
        for _, row in rows[rows["kind"] == kind].iterrows():
            table.add_row(_name(row, marked), *(shown_number(row[name]) for name in names))
        if kind == "method":
            table.add_section()
    console.print()
    console.print(table)


def _print_differences(
    console: Console, rows: pd.DataFrame, marked: set[tuple[str, str]], settings: dict[str, Any]
) -> None:
    """Print energy and AUC minus those of the centre prior, with intervals."""
    scores = [name for name in ("energy", "auc") if f"{name}_over_{PRIOR}" in rows]
    methods = rows[rows["kind"] == "method"]
    if not scores or methods[f"{scores[0]}_over_{PRIOR}"].isna().all():
        return
    level = f"{100 * settings['evaluation']['interval']:g} %"
    table = plain_table(f"minus the {PRIOR} prior", *(word for name in scores for word in (name, level)))
    for _, row in methods.iterrows():
        cells = []
        for name in scores:
            value, low, high = (row[f"{name}_over_{PRIOR}{part}"] for part in ("", "_low", "_high"))
            cells += [f"{value:+.3f}", f"{low:+.3f} to {high:+.3f}"]
        name = _name(row, marked) + ("" if row["crop"] == STANDARD else f", {row['crop']}")
        table.add_row(name, *(cell.replace("-", "−") for cell in cells))
    console.print()
    console.print(table)


def _print_sanity(console: Console, rows: pd.DataFrame, marked: set[tuple[str, str]], settings: dict[str, Any]) -> None:
    columns = [*untrained_columns(settings["sanity"]["levels"]), FLIPPED]
    headings = [name.removeprefix("untrained_") for name in columns]
    table = plain_table("same map when untrained:", *headings)
    for _, row in rows[(rows["kind"] == "method") & (rows["crop"] == STANDARD)].iterrows():
        table.add_row(_name(row, marked), *(shown_number(row[name]) for name in columns))
    console.print()
    console.print(table)


def _print_shortcuts(console: Console, rows: pd.DataFrame, marked: set[tuple[str, str]]) -> None:
    names = [name for name in SHORTCUTS if name in rows]
    table = plain_table("energy on", *names)
    for _, row in rows[(rows["kind"] == "method") | (rows["map"] == "uniform")].iterrows():
        table.add_row(_name(row, marked), *(shown_number(row[name]) for name in names))
    console.print()
    console.print(table)
