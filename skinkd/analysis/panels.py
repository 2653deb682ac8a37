"""What the plots of a comparison share: colours, panels, and labels that do not lie on each other."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from skinkd.analysis.aggregate import METRICS
from skinkd.analysis.comparison import Comparison
from skinkd.analysis.formats import percent

INK, FAINT = "#111213", "#8a8b8c"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
COLOURS = {INK: "--ink", FAINT: "--faint"} | {colour: f"--series-{n}" for n, colour in enumerate(PALETTE)}
"""Colours of the plots -> the page's CSS variables that replace them."""
_MARKERS, _DASHES = ("o", "s", "^", "D", "v", "P"), ("-", "--", ":", "-.")
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "skinkd",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.titlesize": 12,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.alpha": 0.25,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
}


def forest(comparison: Comparison, labels: Sequence[str]) -> tuple[Figure, list[tuple[Axes, str]]]:
    """Return a figure with a panel for each metric, and the same rows from top to bottom in all panels."""
    columns = min(3, len(comparison.metrics))
    figure, panels = panel_grid(
        len(comparison.metrics), height=0.9 + 0.36 * max(2, len(labels)), width=4.0, columns=columns
    )
    for number, (axes, name) in enumerate(zip(panels, comparison.metrics, strict=True)):
        shown = [short_label(comparison, label) for label in labels] if number % columns == 0 else [""] * len(labels)
        axes.set_yticks(range(len(labels)), shown, parse_math=False)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_title(METRICS[name], loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.grid(axis="x")
    figure.supxlabel(f"{percent(comparison.protocol.level)} intervals, by lesion", fontsize=10, color=INK)
    return figure, list(zip(panels, comparison.metrics, strict=True))


def panel_grid(count: int, *, height: float, width: float, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``count`` panels in rows of ``columns``, each ``height`` × ``width`` inches."""
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def wide_grid(comparison: Comparison, count: int, *, height: float) -> tuple[Figure, list[Axes]]:
    """Return panels with room for names at the right; fewer panels next to each other if names are long."""
    columns = 3 if all(len(row.short) <= 20 for row in comparison.rows) else 2
    return panel_grid(count, height=height, width=13.8 / columns, columns=columns)


def looks_of(comparison: Comparison, label: str) -> tuple[str, str, str]:
    """Return colour, dash and marker of a row; a baseline has the colour of the text."""
    baselines = set(comparison.baselines.values())
    others = [row.label for row in comparison.rows if row.label not in baselines]
    if label in baselines:
        place = sorted(baselines).index(label)
        return INK, _DASHES[(place + 1) % len(_DASHES)], _MARKERS[place % len(_MARKERS)]
    place = others.index(label)
    again = place // len(PALETTE)
    return PALETTE[place % len(PALETTE)], _DASHES[again % len(_DASHES)], _MARKERS[again % len(_MARKERS)]


def colour_of(comparison: Comparison, label: str) -> str:
    """Return the colour of a row in every plot."""
    return looks_of(comparison, label)[0]


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]], *, x: float) -> None:
    """Write names at the right of the lines, moved apart if they would overlap."""
    for (_, _, label, colour), y in zip(ends, _apart(axes, [end[1] for end in ends], gap=0.065), strict=True):
        axes.annotate(
            label, (x, y), (6, 0), textcoords="offset points", color=colour, fontsize=10, va="center",
            annotation_clip=False, parse_math=False,
        )  # fmt: skip


def label_points(axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names next to points; names of points at about the same x are moved apart."""
    left, right = axes.get_xlim()
    for cluster in _clusters(sorted(points), 0.3 * (right - left)):
        for (x, _, label, colour), y in zip(cluster, _apart(axes, [p[1] for p in cluster], gap=0.06), strict=True):
            axes.annotate(
                label, (x, y), (8, 0), textcoords="offset points", color=colour, fontsize=10, va="center",
                annotation_clip=False, parse_math=False,
            )  # fmt: skip


def _clusters(
    points: Sequence[tuple[float, float, str, str]], width: float
) -> Iterator[list[tuple[float, float, str, str]]]:
    cluster: list[tuple[float, float, str, str]] = []
    for point in points:
        if cluster and point[0] - cluster[0][0] > width:
            yield cluster
            cluster = []
        cluster.append(point)
    if cluster:
        yield cluster


def _apart(axes: Axes, heights: Sequence[float], *, gap: float) -> list[float]:
    """Return the heights, moved as little as possible so that any two are ``gap`` of the axes' height apart."""
    low, high = axes.get_ylim()
    step = gap * (high - low)
    order = np.argsort(heights, kind="stable")
    placed = np.array(heights, dtype=float)[order]
    for _ in range(200):
        close = np.diff(placed) < step * 0.999
        if not close.any():
            break
        for i in np.flatnonzero(close):
            middle = (placed[i] + placed[i + 1]) / 2
            placed[i], placed[i + 1] = middle - step / 2, middle + step / 2
    # back into the axes as far as there is room, away from the title and the ticks
    room = high - step / 2
    for place in reversed(range(len(placed))):
        placed[place] = min(placed[place], room)
        room = placed[place] - step
    room = low + step / 2
    for place in range(len(placed)):
        placed[place] = max(placed[place], room)
        room = placed[place] + step
    result = np.empty(len(placed))
    result[order] = placed
    return [float(value) for value in result]


def short_label(comparison: Comparison, label: str) -> str:
    """Return a row's name for plots, at most 36 characters; a longer name loses its middle."""
    (short,) = (row.short for row in comparison.rows if row.label == label)
    return short if len(short) <= 36 else f"{short[:14]}…{short[-21:]}"
