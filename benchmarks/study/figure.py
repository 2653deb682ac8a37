"""The figure of docs/results.md: what each method adds in balanced accuracy, with both intervals and each fold."""

import io
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from skinkd.analysis.panels import FAINT, INK, PALETTE, STYLE

from .verdicts import FOLDS, PRIMARY, Compared

BLUE, ORANGE = PALETTE[:2]


def draw(methods: Sequence[Compared]) -> Figure:
    """Draw a line for each method; a hollow mark has fewer folds than the design asks for."""
    figure = Figure(figsize=(8, 0.9 + 0.5 * len(methods)), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(methods):
        inner, outer = one.lesions[PRIMARY], one.trained[PRIMARY]
        whole = len(one.folds) == FOLDS
        axes.plot([outer.low, outer.high], [place, place], color=FAINT, linewidth=1.4)
        axes.plot([inner.low, inner.high], [place, place], color=BLUE, linewidth=4.5, solid_capstyle="round")
        axes.plot(one.by_fold, [place + 0.28] * len(one.folds), "|", color=ORANGE, markersize=8, markeredgewidth=1.6)
        axes.plot(inner.value, place, "o", color=BLUE, mfc=BLUE if whole else "white", markersize=9, markeredgewidth=2)
    axes.axvline(0, color=INK, linewidth=1, zorder=0)
    names = [f"{one.row}\n{len(one.folds)} of {FOLDS} folds" for one in methods]
    axes.set_yticks(range(len(methods)), names, fontsize=9)
    axes.set_ylim(len(methods) - 0.4, -0.6)
    widest = max(abs(value) for one in methods for value in (*one.by_fold, one.lesions[PRIMARY].high))
    axes.set_xlim(-1.35 * widest, 1.35 * widest)  # with two folds the outer interval is far wider
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel("balanced accuracy less that of plain training of the same network")
    handles = [
        Line2D([], [], color=BLUE, marker="o", linewidth=4.5, label="mean, 95 % for other lesions"),
        Line2D([], [], color=FAINT, linewidth=1.4, label="95 % for other trainings too"),
        Line2D([], [], color=ORANGE, marker="|", linestyle="none", markersize=8, label="each fold"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=9)
    return figure


def as_file(methods: Sequence[Compared]) -> str:
    """The figure as an SVG file, which is the same for the same numbers."""
    with mpl.rc_context(STYLE | {"figure.facecolor": "white", "savefig.facecolor": "white"}):
        buffer = io.StringIO()
        FigureCanvasSVG(draw(methods)).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
