"""The figures of docs/results.md: what each method adds, and what a leak adds, as SVG files."""

import io
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from skinkd.analysis.panels import FAINT, INK, PALETTE
from skinkd.analysis.panels import STYLE as PAGE_STYLE

from .ablations import Ablated
from .leaks import METRICS, Effects
from .verdicts import FOLDS, PRIMARY, Compared

BLUE, ORANGE = PALETTE[:2]
STYLE = PAGE_STYLE | {"figure.facecolor": "white", "savefig.facecolor": "white"}  # readable on a dark page too


@mpl.rc_context(STYLE)
def draw_methods(methods: Sequence[Compared]) -> Figure:
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
    names = [f"{one.row}\n{one.trainings} trainings" for one in methods]
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


@mpl.rc_context(STYLE)
def draw_ablations(found: Sequence[Ablated]) -> Figure:
    """Draw a panel for each row: the row as chosen and its ablations, less the baseline."""
    rows = {row: [one for one in found if one.row == row] for row in dict.fromkeys(one.row for one in found)}
    figure = Figure(figsize=(8, 1 + 0.3 * (len(found) + len(rows))), layout="constrained")
    heights = [len(of) + 0.6 for of in rows.values()]
    panels = figure.subplots(len(rows), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (row, of) in zip(panels, rows.items(), strict=True):
        for place, one in enumerate(of):
            inner, outer = one.less_baseline.lesions[PRIMARY], one.less_baseline.trained[PRIMARY]
            color, mark = (ORANGE, "o") if one.less_chosen else (BLUE, "D")
            axes.plot([outer.low, outer.high], [place, place], color=FAINT, linewidth=1.4)
            axes.plot([inner.low, inner.high], [place, place], color=color, linewidth=4, solid_capstyle="round")
            axes.plot(inner.value, place, mark, color=color, markersize=8)
        axes.axvline(0, color=INK, linewidth=1, zorder=0)
        axes.set_yticks(range(len(of)), [one.settings for one in of], fontsize=9)
        axes.set_ylim(len(of) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_title(row, loc="left", fontsize=10)
    panels[-1].set_xlabel("balanced accuracy less that of plain training of the same network")
    handles = [
        Line2D([], [], color=BLUE, marker="D", linewidth=4, label="as chosen, 95 % for other lesions"),
        Line2D([], [], color=ORANGE, marker="o", linewidth=4, label="one thing changed, likewise"),
        Line2D([], [], color=FAINT, linewidth=1.4, label="95 % for other trainings too"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=9)
    return figure


@mpl.rc_context(STYLE)
def draw_leak(found: Effects) -> Figure:
    """Draw both scores of the same images, for those whose lesion is in training and for the others."""
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(METRICS), sharey=True), METRICS.items(), strict=True):
        for place, known in enumerate((True, False)):
            fair, leaky, one = found[known][name]
            axes.plot([fair, leaky], [place, place], color=FAINT, linewidth=2.5, zorder=0)
            axes.plot(fair, place, "o", color=BLUE, markersize=10)
            axes.plot(leaky, place, "D", color=ORANGE, markersize=9)
            words = f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})".replace("-", "−")
            axes.annotate(
                words, ((fair + leaky) / 2, place), (0, 12), textcoords="offset points", ha="center", fontsize=9
            )
        axes.set_yticks([0, 1], ["lesion is in\ntraining too", "lesion is not\nin training"])
        axes.set_ylim(1.5, -0.7)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.35)
        axes.grid(axis="x")
        axes.set_title(title, loc="left")
    handles = [
        Line2D([], [], color=BLUE, marker="o", linestyle="none", markersize=9, label="trained on a split by lesion"),
        Line2D([], [], color=ORANGE, marker="D", linestyle="none", markersize=8, label="trained on a split by image"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, fontsize=9)
    return figure


@mpl.rc_context(STYLE)
def as_file(figure: Figure) -> str:
    """A figure as an SVG file, which is the same for the same numbers."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
