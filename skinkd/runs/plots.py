"""Plots of a run: its learning curves and its confusion matrix.

They use matplotlib without pyplot, which needs no display and changes no global state. The colours are Okabe and Ito's,
which colour-blind readers can tell apart. From the eighth line on, the dash changes too.
"""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from skinkd.runs.files import written_atomically
from skinkd.scoring.metrics import confusion_matrix

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")
_SCORES = {
    "val/accuracy": "accuracy",
    "val/balanced_accuracy": "balanced accuracy",
    "val/f1_macro": "F1 (macro)",
    "val/auroc_macro": "AUROC (macro)",
}
_MANY = 12  # with more classes, cells are small and show only the count
_NAME_LENGTH = 28


def plot_curves(history: pd.DataFrame, path: Path, *, best_epoch: int) -> Path:
    """Draw a run's ``history.csv`` as small multiples, with the selected epoch marked; return ``path``.

    The panels are loss (training and validation), the other terms ``train/<term>`` (unweighted), the main
    validation metrics, and learning rates (columns that begin with ``lr``). A panel without data is left out.

    Args:
        history: one row for each epoch, with a column ``epoch``; gaps are skipped.
        path: PNG file to write, in one step.
        best_epoch: the epoch whose checkpoint was selected, as in ``history``.
    """
    names = [str(name) for name in history]
    terms = [name for name in names if name.startswith("train/") and name != "train/loss"]
    panels: list[tuple[str, dict[str, str]]] = [
        ("Loss", {"train/loss": "training", "val/loss": "validation"}),
        ("Training terms, unweighted", {name: name.removeprefix("train/") for name in terms}),
        ("Validation metrics", _SCORES),
        ("Learning rate", {name: name for name in names if name.startswith("lr")}),
    ]
    kept = []
    for title, wanted in panels:
        series = {label: history[["epoch", name]].dropna() for name, label in wanted.items() if name in names}
        lines = {label: line for label, line in series.items() if len(line)}
        if lines:
            kept.append((title, lines))
    columns = 2 if len(kept) == 4 else max(1, len(kept))
    rows = max(1, len(kept) // columns)
    figure = Figure(figsize=(6.2 * columns if rows == 2 else 5.0 * columns, 3.5 * rows + 0.4), layout="constrained")
    for place, (title, lines) in enumerate(kept):
        _draw_lines(figure.add_subplot(rows, columns, place + 1), lines, title, best_epoch)
    figure.suptitle(f"Learning curves (dotted line: selected epoch, {best_epoch})", fontsize=12)
    return save_figure(figure, path)


def plot_confusion(table: pd.DataFrame, classes: Sequence[str], path: Path) -> Path:
    """Draw the confusion matrix of a prediction table; return ``path``.

    A cell shows the number of images and, up to twelve classes, its share of the row. The shade is that share, so that the
    diagonal shows the sensitivity of each class. The label of a row gives its number of images.

    Args:
        table: prediction table.
        classes: class names, in the order to show.
        path: PNG file to write, in one step.
    """
    counts = confusion_matrix(table, classes)
    support = counts.sum(axis=1)
    share = counts / np.maximum(support, 1)[:, None]
    many = len(classes) > _MANY
    side = max(2.6, len(classes) * (0.46 if many else 0.72))
    figure = Figure(figsize=(side + 2.9, side + 1.9), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*counts.shape):
        if counts[i, j] == 0:
            continue  # an empty cell means zero
        percent = f"{share[i, j]:.0%}" if share[i, j] >= 0.005 else "<1%"
        text = f"{counts[i, j]:,}" if many else f"{counts[i, j]:,}\n{percent}"
        colour = "white" if share[i, j] > 0.65 else "black"
        axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=8 if many else 9)
    shown = [_shorten(name) for name in classes]
    lean = max(map(len, shown)) > 10 or many
    axes.set_xticks(
        range(len(classes)),
        shown,
        rotation=45 if lean else 0,
        ha="right" if lean else "center",
        rotation_mode="anchor" if lean else None,
        parse_math=False,
    )
    axes.set_yticks(
        range(len(classes)),
        [f"{name} (n = {n:,})" for name, n in zip(shown, support, strict=True)],
        parse_math=False,
    )
    axes.tick_params(length=0, labelsize=9)
    axes.set_xticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#d9d9d9", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    right = np.trace(counts)
    axes.set_title(f"Confusion matrix: {right:,} of {support.sum():,} images right", fontsize=12, pad=10)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, format=FuncFormatter(lambda v, _: f"{v:.0%}"))
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    return save_figure(figure, path)


def _draw_lines(axes: Axes, lines: dict[str, pd.DataFrame], title: str, best_epoch: int) -> None:
    dashes = (dash for dash in cycle(_DASHES) for _ in _COLOURS)
    for (label, line), colour, dash in zip(lines.items(), cycle(_COLOURS), dashes, strict=False):
        epochs, values = line.iloc[:, 0].to_numpy(float), line.iloc[:, 1].to_numpy(float)
        marker = "o" if len(line) <= 40 else None
        axes.plot(epochs, values, dash, color=colour, marker=marker, markersize=3, linewidth=1.5, label=label)
    every = np.concatenate([line.iloc[:, 1].to_numpy(float) for line in lines.values()])
    if title != "Validation metrics" and (every > 0).all() and every.max() > 50 * every.min():
        axes.set_yscale("log")
    axes.axvline(best_epoch, color="#666666", linestyle=":", linewidth=1.2, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if title == "Loss":
        axes.legend(fontsize=9, frameon=False)
    elif len(lines) > 1 or title.startswith("Training"):
        # next to the panel: ten terms leave no room inside
        axes.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=1.6)


def _shorten(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…"


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure, whose layout leaves no text outside, as PNG, in one step."""
    FigureCanvasAgg(figure)
    with written_atomically(path) as temporary:
        # no date or version inside: the same run gives the same file
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})
    return path
