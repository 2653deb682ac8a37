"""Writes a comparison: CSV with every digit, and the same rounded tables as Markdown, LaTeX, HTML and terminal output."""

import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment
from markupsafe import Markup
from rich.box import Box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from skinkd.analysis.comparison import Comparison
from skinkd.analysis.figures import all_figures
from skinkd.analysis.formats import Cell, Table, percent
from skinkd.analysis.panels import FAINT, INK, PALETTE
from skinkd.analysis.runs import Skipped
from skinkd.analysis.tables import all_tables, cost_table, deployed_table, scores_table, tests_table
from skinkd.runs.folder import RunFolder

PAGE = "report.html"
# a rule below the heading and a space between groups, in ASCII, which every terminal and file can show
_RULE = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "<": "$<$", ">": "$>$",
    "|": r"\textbar{}", '"': "''", "[": "{[}", "]": "{]}", "*": "{*}", "×": r"$\times$", "†": r"\dag{}", "…": r"\dots{}",
}  # fmt: skip
_NARROW = r"\footnotesize\setlength{\tabcolsep}{3pt}"  # so that five metrics fit a page of an article
_LONG = 30  # a LaTeX table with more lines may break over pages
_NAME_ROOM = 26  # most columns that the names of rows take in a terminal


def write_outputs(comparison: Comparison, skipped: Sequence[Skipped], out: Path) -> list[str]:
    """Write every file of a comparison into ``out``, each in one step; return their names.

    The same runs give the same bytes, in any order of the runs.
    """
    frames = {
        "comparison.csv": wide_scores(comparison),
        "tests.csv": comparison.tests,
        "per_class.csv": comparison.per_class,
        "calibration.csv": comparison.calibration,
        "abstention.csv": comparison.abstention,
        "runs.csv": comparison.runs,
        **({"explanations.csv": comparison.explanations} if len(comparison.explanations) else {}),
    }
    # all texts before any file is written, so that an error in a plot leaves no incomplete set of files
    texts = {
        "comparison.md": markdown(comparison, skipped),
        "comparison.tex": latex(comparison),
        PAGE: html(comparison, skipped),
    }
    folder = RunFolder(out)
    folder.path.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        folder.write_csv(name, frame)
    for name, text in texts.items():
        folder.write_text(name, text)
    return [*frames, *texts]


def wide_scores(comparison: Comparison) -> pd.DataFrame:
    """Return a line for each row: its cost, also once exported, and mean, sd and intervals of every metric."""
    parts = [name for name in comparison.scores if name not in ("row", "metric")]
    wide = comparison.scores.pivot(index="row", columns="metric", values=parts)
    metrics = list(dict.fromkeys(comparison.scores["metric"]))
    order = [(part, name) for name in metrics for part in parts]
    wide = wide[order]
    wide.columns = [f"{name}_{part}" for part, name in order]
    cost = comparison.cost
    if len(comparison.deployed):
        cost = cost.merge(comparison.deployed, on="row", how="left")
    return cost.merge(wide.reset_index(), on="row", how="left")


def markdown_tables(comparison: Comparison) -> dict[str, str]:
    """Return every table as Markdown with its caption, by name: scores, tests, per_class, calibration, …, runs."""
    return {table.name: _markdown(table) for table in all_tables(comparison)}


def markdown(comparison: Comparison, skipped: Sequence[Skipped]) -> str:
    """Return the whole comparison as Markdown."""
    parts = ["# Comparison", _about(comparison)]
    parts += [f"- {_escape_markdown(note)}" for note in remarks(comparison, skipped)]
    parts += [f"## {_escape_markdown(table.title)}\n\n{_markdown(table)}" for table in all_tables(comparison)]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"


def _markdown(table: Table) -> str:
    lines = ["| " + " | ".join(_escape_markdown(word) for word in table.header) + " |"]
    lines.append("|" + "|".join(" --- " if n < table.words else " ---: " for n in range(len(table.header))) + "|")
    for row in table.rows:
        cells = []
        for cell in row:
            text = _escape_markdown(cell.text)
            text = f"**{text}**" if cell.bold else text
            cells.append(f"{text} ({cell.note})" if cell.note else text)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\n{_escape_markdown(_caption(table))}"


def _caption(table: Table) -> str:
    return f"{table.caption} {table.more}".strip()


def _escape_markdown(text: str) -> str:
    text = re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text.replace("&", "&amp;"))
    return re.sub(r"<(?! )", "&lt;", text)


def latex(comparison: Comparison) -> str:
    """Return every table except ``runs`` as LaTeX, for ``\\input``; needs the packages booktabs and longtable."""
    head = (
        "% \\usepackage{booktabs,longtable} in the preamble, and some 16 cm of text width; names beyond ASCII need fonts "
        "that have them\n"
    )
    return head + "\n".join(_latex(table) for table in all_tables(comparison) if table.name != "runs")


def _latex(table: Table) -> str:
    columns = "l" * table.words + "r" * (len(table.header) - table.words)
    header = " & ".join(_escape_latex(word) for word in table.header) + r" \\"
    lines = []
    for number, row in enumerate(table.rows):
        texts = [rf"\textbf{{{_escape_latex(cell.text)}}}" if cell.bold else _escape_latex(cell.text) for cell in row]
        lines.append(" & ".join(texts) + r" \\")
        if any(cell.note for cell in row):
            notes = [rf"{{\scriptsize {_escape_latex(cell.note)}}}" if cell.note else "" for cell in row]
            lines.append(" & ".join(notes) + (r" \\[2pt]" if number < len(table.rows) - 1 else r" \\"))
    caption = (
        rf"\caption{{{_escape_latex(f'{table.title}. {_caption(table)}')}}}\label{{tab:{table.name.replace('_', '-')}}}"
    )
    body = "\n".join(lines)
    if len(table.rows) > _LONG:
        return (
            f"{{{_NARROW}\n\\begin{{longtable}}{{{columns}}}\n{caption}\\\\\n\\toprule\n{header}\n\\midrule\n\\endhead\n"
            f"\\bottomrule\n\\endfoot\n{body}\n\\end{{longtable}}}}\n"
        )
    return (
        f"\\begin{{table}}[htbp]\n\\centering{_NARROW}\n{caption}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{header}\n"
        f"\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def html(comparison: Comparison, skipped: Sequence[Skipped]) -> str:
    """Return one HTML page that holds all its scripts, styles and plots and loads nothing else."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("skinkd.analysis").joinpath(PAGE).read_text(encoding="utf-8"))
    confusion = [
        {
            "label": row.label,
            "classes": row.classes,
            "shares": [[None if np.isnan(v) else float(v) for v in line] for line in comparison.confusion[row.label]],
        }
        for row in comparison.rows
    ]
    return template.render(
        about=_about(comparison),
        rows=comparison.rows,
        remarks=remarks(comparison, skipped),
        tables={table.name: table for table in all_tables(comparison)},
        figures={name: Markup(svg) for name, svg in all_figures(comparison).items()},
        confusion=confusion,
        level=percent(comparison.protocol.level),
        alpha=f"{1 - comparison.protocol.level:.3g}",
        ink=INK,
        faint=FAINT,
        palette=PALETTE,
    )


def _about(comparison: Comparison) -> str:
    runs = [run for row in comparison.rows for run in row.runs]
    data = sorted({str(run.config["data"]["name"]) for run in runs})
    sets = {frozenset(run.test["image_id"]): len(run.test) for run in runs}
    lesions = sum(
        run.test["group"].nunique() for run in {frozenset(run.test["image_id"]): run for run in runs}.values()
    )
    kinds = sorted({str(run.config["protocol"]) for run in runs})
    return (
        f"{len(comparison.rows)} rows, {len(runs)} runs on {', '.join(data)} (split: {', '.join(kinds)}); "
        f"{sum(sets.values()):,} test images of {lesions:,} lesions"
        + (f" in {len(sets)} test sets." if len(sets) > 1 else ".")
    )


def remarks(comparison: Comparison, skipped: Sequence[Skipped]) -> list[str]:
    """Return remarks for the reader of the tables: how rows differ, and which runs were left out."""
    return [*comparison.notes, *(f"Left out: {left_out.folder.name} ({left_out.reason})." for left_out in skipped)]


def print_comparison(
    comparison: Comparison, skipped: Sequence[Skipped], *, out: Path, console: Console | None = None
) -> None:
    """Print the tables of scores, tests and cost, the remarks, and the path of the report.

    The output fits 80 columns: metrics that do not fit next to each other come below. In a pipe or file it is plain text.
    """
    console = console or Console(highlight=False)
    _say(console, f"\n{_about(comparison)}")
    for table in (
        scores_table(comparison),
        tests_table(comparison),
        cost_table(comparison),
        deployed_table(comparison),
    ):
        if not table.rows:
            continue
        _say(console, f"\n{table.title}", bold=True)
        parts = _fitting(table, console.width) if table.words == 1 else _by_first_column(table)
        for number, part in enumerate(parts):
            console.print(*([""] if number else []), _rich(part, console), sep="\n")
        _say(console, table.caption, dim=True)
    for remark in remarks(comparison, skipped):
        _say(console, f"note: {remark}")
    _say(console, "\nreport:")
    console.print(Text(str(out / PAGE)), soft_wrap=True)


def _fitting(table: Table, width: int) -> list[Table]:
    """Split a table into parts that fit the terminal, each with the columns of words and some columns of numbers."""

    def wide(column: int) -> int:
        cells = [row[column] for row in table.rows]
        room = max(len(text) for text in [table.header[column], *(t for c in cells for t in (c.text, c.note))])
        return 2 + (min(room, _NAME_ROOM // table.words) if column < table.words else room)

    widths = [wide(column) for column in range(len(table.header))]
    parts: list[list[int]] = [[]]
    fixed = sum(widths[: table.words])
    for column in range(table.words, len(widths)):
        if parts[-1] and fixed + sum(widths[c] for c in [*parts[-1], column]) > width + 2:
            parts.append([])
        parts[-1].append(column)

    def part(columns: list[int]) -> Table:
        kept = [*range(table.words), *columns]
        rows = tuple(tuple(row[c] for c in kept) for row in table.rows)
        return replace(table, header=tuple(table.header[c] for c in kept), rows=rows)

    return [part(columns) for columns in parts]


def _by_first_column(table: Table) -> list[Table]:
    """Split a table into parts, one for each text in its first column, which becomes the heading of the part."""
    parts = []
    for text in dict.fromkeys(row[0].text for row in table.rows):
        rows = tuple(row[1:] for row in table.rows if row[0].text == text)
        parts.append(replace(table, header=(text, *table.header[2:]), rows=rows, words=table.words - 1))
    return parts


def _rich(table: Table, console: Console) -> RichTable:
    result = RichTable(box=_RULE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    for number, word in enumerate(table.header):
        words = number < table.words
        lines = [word, *(text for row in table.rows for text in (row[number].text, row[number].note))]
        # names may break over several lines, numbers never
        least = None if words else max(map(len, lines))
        result.add_column(
            _plain(console, word),
            justify="left" if words else "right",
            no_wrap=not words,
            min_width=least,
            overflow="fold",
        )
    for row in table.rows:
        result.add_row(*(_words(console, cell) for cell in row))
    return result


def _words(console: Console, cell: Cell) -> Text:
    text = Text(_plain(console, cell.text))
    return text.append(f"\n{_plain(console, cell.note)}", style="dim") if cell.note else text


def _say(console: Console, text: str, *, bold: bool = False, dim: bool = False) -> None:
    console.print(Text(_plain(console, text), style="bold" if bold else "dim" if dim else ""))


def _plain(console: Console, text: str) -> str:
    """Return the text in characters of the terminal's encoding."""
    if "utf" in console.encoding.lower():
        return text
    for character, plain in (("±", "+/-"), ("−", "-"), ("…", "..."), ("†", "*")):
        text = text.replace(character, plain)
    return text.encode(console.encoding, "replace").decode(console.encoding)
