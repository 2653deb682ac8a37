"""The table that ends a run, and the commands that come next."""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skinkd.config.quoting import word
from skinkd.config.targets import allowed_words

if TYPE_CHECKING:
    import pandas as pd  # slow to import, and only its type is needed

_ROWS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "precision_macro": "precision (macro)",
    "f1_macro": "F1 (macro)",
    "auroc_macro": "AUROC (macro)",
    "average_precision_macro": "average precision (macro)",
    "ece": "calibration error (ECE)",
    "brier": "Brier score",
    "loss": "loss",
}
_UNDEFINED = "-"
_CLASS_NUMBERS = 64  # characters that the numbers of a class take
# only a rule below the heading, in ASCII, which every terminal and file can show
_RULE = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def print_results(
    metrics: Mapping[str, Any],
    per_class: "pd.DataFrame",
    *,
    title: str,
    folder: Path,
    level: float,
    console: Console | None = None,
) -> None:
    """Print the main metrics, the metrics of each class, and the run folder on a separate line.

    If the test part was not scored, the tables show only the validation part. They fit 80 columns. In a pipe or file they
    are plain text without control codes. The folder's line is never broken, so that it can be copied.

    Args:
        metrics: ``val/<name>`` and ``test/<name>`` as in metrics.json; a test metric's interval is taken from
            ``test/<name>_low`` and ``test/<name>_high`` where both are there.
        per_class: the table of ``metrics.per_class`` of the test part, or of the validation part if only that was scored.
        title: the heading above the table.
        folder: the run folder.
        level: confidence of the intervals, shown in the heading.
        console: where to print; standard output if None.
    """
    console = console or Console(highlight=False)
    interval = f"{100 * level:g} % interval"
    tested = any(name.startswith("test/") for name in metrics)
    parts = ("val", "test") if tested else ("val",)
    main = plain_table("", "validation", *(["test", interval] if tested else []))
    for name, label in _ROWS.items():
        if f"val/{name}" in metrics or f"test/{name}" in metrics:
            bounds = _bounds(metrics.get(f"test/{name}_low"), metrics.get(f"test/{name}_high"))
            scores = [shown_number(metrics.get(f"{part}/{name}")) for part in parts]
            main.add_row(label, *scores, *([bounds] if tested else []))
    main.add_row("images", *(_count(metrics.get(f"{part}/n")) for part in parts))
    heading = f"{parts[-1]}, by class"
    classes = plain_table(heading, "images", "sensitivity", interval, "specificity", "F1", "AUROC")
    room = max(len(heading), console.width - _CLASS_NUMBERS)
    for _, row in per_class.iterrows():
        classes.add_row(
            Text(_shorten(str(row["class"]), room)),
            _count(row["n"]),
            shown_number(row["sensitivity"]),
            _bounds(row["sensitivity_low"], row["sensitivity_high"]),
            *(shown_number(row[name]) for name in ("specificity", "f1", "auroc")),
        )
    console.print()
    console.print(Text(title, style="bold"), soft_wrap=True)
    console.print(main)
    console.print()
    console.print(classes)
    console.print("\nrun folder:")
    console.print(Text(str(folder)), soft_wrap=True)


def next_commands(folder: Path, *, tested: bool) -> str:
    """The commands that a finished run is good for, each below a line that says what it does.

    They can be pasted into a POSIX shell whose working directory is this process's.

    Args:
        folder: the run folder. Its W&B runs that were logged offline are found there.
        tested: whether the test part was scored; without it, a run cannot be compared.
    """
    python = _python()
    allowed = "".join(f"{text} " for text in allowed_words())
    chosen = (
        f"{python} -m skinkd.evaluate {allowed}{word('run', str(folder))} data=folder data.root=FOLDER data.name=NAME"
    )
    steps = [("score it on your own images, FOLDER/<class>/*.jpg:", chosen)]
    if tested:
        steps.append(
            ("compare it with the runs beside it:", f"{python} -m skinkd.compare {shlex.quote(str(folder.parent))}")
        )
    curves = shlex.quote((folder / "curves.png").resolve().as_uri())
    steps.append(("look at its curves:", f"{python} -m webbrowser {curves}"))
    offline = [shlex.quote(str(path)) for path in sorted(folder.glob("wandb/offline-run-*"))]
    if offline:
        steps.append(("upload it to W&B:", " ".join([python, "-m wandb sync", *offline])))
    return "\n".join(["", "what can come next:", *(f"- {what}\n  {command}" for what, command in steps)])


def _python() -> str:
    """This interpreter, in the fewest words that find it."""
    found = shutil.which("python")
    if found and os.path.abspath(found) == os.path.abspath(sys.executable):
        return "python"
    relative = os.path.relpath(sys.executable)
    return shlex.quote(sys.executable if relative.startswith("..") else relative)


def plain_table(first: str, *others: str) -> Table:
    """Return an empty table with these headings: the first column is aligned left, the others right."""
    table = Table(box=_RULE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _shorten(name: str, room: int) -> str:
    return name if len(name) <= room else name[: room - 3] + "..."


def shown_number(value: float | None) -> str:
    """Return the number with three decimals, or a dash for None and NaN."""
    return f"{value:.3f}" if _is_number(value) else _UNDEFINED


def _count(value: float | None) -> str:
    return f"{value:,.0f}" if _is_number(value) else _UNDEFINED


def _bounds(low: float | None, high: float | None) -> str:
    return f"{low:.3f} to {high:.3f}" if _is_number(low) and _is_number(high) else ""


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and value == value  # only NaN differs from itself
