"""The plots of a comparison, as SVG inside a page: text stays text, and colours follow the page's light or dark mode.

They use matplotlib without pyplot. Colours are Okabe and Ito's; further rows repeat them with different markers and dashes.
The SVG holds nothing random and no date: the same numbers give the same bytes.
"""

import io
import re
import textwrap
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from skinkd.analysis.abstention import COVERAGE
from skinkd.analysis.aggregate import CURVES
from skinkd.analysis.comparison import Comparison, summary
from skinkd.analysis.deployed import COSTS, FILES
from skinkd.analysis.explanations import MARK, SCORES
from skinkd.analysis.formats import amount, time_unit
from skinkd.analysis.panels import (
    COLOURS,
    FAINT,
    INK,
    STYLE,
    colour_of,
    forest,
    label_ends,
    label_points,
    looks_of,
    panel_grid,
    short_label,
    wide_grid,
)


def all_figures(comparison: Comparison) -> dict[str, str]:
    """Return SVG by name: ``intervals``, and each other figure for which there is data."""
    drawings: dict[str, Callable[[Comparison], Figure]] = {"intervals": draw_intervals}
    if _costs_that_differ(comparison):
        drawings["cost"] = draw_cost
    if len(comparison.deployed):
        drawings["deployed"] = draw_deployed
    if len(comparison.tests):
        drawings["differences"] = draw_differences
    drawings |= {"explanations": draw_explanations} if comparison.explanations["p"].notna().any() else {}
    if len(comparison.curves):
        drawings["curves"] = draw_curves
    if any(comparison.reliability.values()):
        drawings["reliability"] = draw_reliability
    drawings["abstention"] = draw_abstention
    with mpl.rc_context(STYLE):
        return {name: as_svg(draw(comparison), name) for name, draw in drawings.items()}


def as_svg(figure: Figure, name: str) -> str:
    """Return the figure as an ``<svg>`` element, with ids that begin with ``name`` and the page's variables as colours."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="([\d.]+)pt"', r'\1 style="max-width: \2pt" role="img"', text, count=1)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in COLOURS.items():
        text = text.replace(colour, f"var({variable})")
    return re.sub(r"[ \t]+\n", "\n", text).strip() + "\n"


def draw_intervals(comparison: Comparison) -> Figure:
    """Draw a panel for each metric: the mean of each row with its interval by lesion, and its runs as ticks."""
    figure, panels = forest(comparison, [row.label for row in comparison.rows])
    for axes, name in panels:
        scores = summary(comparison, name)
        for place, row in enumerate(comparison.rows):
            score, colour = scores[row.label], colour_of(comparison, row.label)
            axes.plot(
                [score["low"], score["high"]], [place, place], color=colour, linewidth=2.2, solid_capstyle="round"
            )
            axes.plot(score["mean"], place, "o", color=colour, markersize=7)
            runs = comparison.runs.loc[comparison.runs["row"] == row.label, name]
            if len(runs) > 1:
                axes.plot(runs, np.full(len(runs), place + 0.27), "|", color=colour, markersize=7, alpha=0.8)
        for label in set(comparison.baselines.values()):
            axes.axvline(scores[label]["mean"], color=FAINT, linestyle=":", linewidth=1.2, zorder=0)
    return figure


def draw_differences(comparison: Comparison) -> Figure:
    """Draw a panel for each metric: the paired difference of each tested row to its baseline, with its interval."""
    tests = comparison.tests[comparison.tests["test"] == "paired bootstrap"]
    labels = [row.label for row in comparison.rows if row.label in comparison.baselines]
    figure, panels = forest(comparison, labels)
    for axes, name in panels:
        for place, label in enumerate(labels):
            lines = tests[(tests["row"] == label) & (tests["metric"] == name)]
            if lines.empty:  # these test labels leave the metric undefined
                continue
            test = lines.iloc[0]
            colour = colour_of(comparison, label)
            axes.plot([test["low"], test["high"]], [place, place], color=colour, linewidth=2.2, solid_capstyle="round")
            sure = test["p_holm"] < 1 - comparison.protocol.level
            axes.plot(
                test["difference"], place, "o", color=colour, mfc=colour if sure else "none", markersize=7, mew=1.8
            )
        axes.axvline(0, color=INK, linewidth=1, zorder=0)
    return figure


def draw_explanations(comparison: Comparison) -> Figure:
    """Draw a panel for each explanation score: the difference of each tested row to its baseline under each method."""
    lines = comparison.explanations.dropna(subset=["difference"])
    scores, maps, labels = (list(lines[name].unique()) for name in ("score", "map", "row"))
    marked = set(comparison.explanations.loc[~comparison.explanations["depends"].astype(bool), "map"])
    names = [f"{name} {MARK}" if name in marked else name for name in maps]
    height = 0.9 + 0.24 * max(2, len(maps) * len(labels))
    figure, panels = panel_grid(len(scores), height=height, width=6.0, columns=2)
    for axes, score in zip(panels, scores, strict=True):
        for _, line in lines[lines["score"] == score].iterrows():
            place = maps.index(line["map"]) + (labels.index(line["row"]) + 1) / (len(labels) + 1) - 0.5
            colour, sure = colour_of(comparison, line["row"]), line["p_holm"] < 1 - comparison.protocol.level
            axes.hlines(place, line["difference_low"], line["difference_high"], color=colour, linewidth=2.2)
            axes.plot(line["difference"], place, "o", color=colour, mfc=colour if sure else "none")
        axes.set(yticks=range(len(maps)), yticklabels=names, ylim=(len(maps) - 0.4, -0.6))
        axes.axvline(0, color=INK, linewidth=1, zorder=0)
        axes.set_title(SCORES[score], loc="left")
    keys = [Line2D([], [], color=colour_of(comparison, label)) for label in labels]
    figure.legend(
        keys, [short_label(comparison, label) for label in labels], loc="outside lower center", ncols=3, fontsize=9
    )
    return figure


def draw_curves(comparison: Comparison) -> Figure:
    """Draw validation metrics by epoch: the mean of the runs, and a band from the least run to the greatest."""
    present = [name for name in CURVES if name in set(comparison.curves["metric"])]
    figure, panels = wide_grid(comparison, len(present), height=3.6)
    for axes, metric in zip(panels, present, strict=True):
        lines = comparison.curves[comparison.curves["metric"] == metric]
        ends: list[tuple[float, float, str, str]] = []
        for row in comparison.rows:
            curve = lines[lines["row"] == row.label].sort_values("epoch")
            if curve.empty:
                continue
            colour, dash, marker = looks_of(comparison, row.label)
            x, y = curve["epoch"].to_numpy(float), curve["mean"].to_numpy(float)
            axes.plot(
                x, y, dash, color=colour, linewidth=1.8, marker=marker if len(curve) <= 12 else None, markersize=4
            )
            if curve["runs"].max() > 1:
                axes.fill_between(x, curve["low"], curve["high"], color=colour, alpha=0.13, linewidth=0)
            ends.append((float(x[-1]), float(y[-1]), short_label(comparison, row.label), colour))
        label_ends(axes, ends, x=max((end[0] for end in ends), default=0))
        axes.set_title(f"validation {CURVES[metric]}", loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        axes.grid(axis="y")
    return figure


def draw_reliability(comparison: Comparison) -> Figure:
    """Draw for each row accuracy against confidence, before and after temperature scaling, and the images in each bin."""
    kept = {label: parts for label, parts in comparison.reliability.items() if parts}
    figure, panels = panel_grid(len(kept), height=3.0, width=2.9, columns=4)
    for number, (axes, (label, parts)) in enumerate(zip(panels, kept.items(), strict=True)):
        colour = colour_of(comparison, label)
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
        share = parts["after"]["n"] / parts["after"]["n"].sum()
        width = (parts["after"]["high"] - parts["after"]["low"]).to_numpy()
        axes.bar(
            parts["after"]["low"], 0.25 * share / max(share.max(), 1e-9), width, align="edge", color=FAINT, alpha=0.3
        )
        for part, shade, marker in (("before", FAINT, "o"), ("after", colour, "s")):
            bins = parts[part].dropna()
            axes.plot(bins["confidence"], bins["accuracy"], color=shade, linewidth=1.3)
            size = 6 + 150 * bins["n"] / bins["n"].sum()  # bins with few images are small
            axes.scatter(bins["confidence"], bins["accuracy"], size, color=shade, marker=marker, label=part, zorder=3)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        title = textwrap.fill(short_label(comparison, label), 26)
        axes.set_title(title, loc="left", fontsize=11, parse_math=False)
        axes.set_xlabel("confidence")
        if number == 0:
            axes.set_ylabel("accuracy")
            axes.legend(loc="upper left", fontsize=9, handlelength=1.4, borderpad=0)
    return figure


def draw_abstention(comparison: Comparison) -> Figure:
    """Draw the share of wrong predictions among the images that are kept, against the share of images kept."""
    figure, (axes,) = panel_grid(1, height=3.8, width=7.5)
    ends = []
    for row in comparison.rows:
        curve = comparison.risk[comparison.risk["row"] == row.label]
        colour, dash, _ = looks_of(comparison, row.label)
        axes.plot(curve["coverage"], curve["risk"], dash, color=colour, linewidth=1.8)
        ends.append((1.0, float(curve["risk"].iloc[-1]), short_label(comparison, row.label), colour))
    axes.set(xlim=(0, 1), xlabel="share of images kept")
    axes.set_ylim(bottom=0)
    axes.axvline(COVERAGE, color=FAINT, linestyle=":", linewidth=1.2, zorder=0)
    label_ends(axes, ends, x=1)
    axes.set_title("wrong among the images kept", loc="left")
    axes.grid(axis="y")
    return figure


def draw_cost(comparison: Comparison) -> Figure:
    """Draw balanced accuracy with its interval against the costs of a row, to deploy and to train."""
    scores = summary(comparison, "balanced_accuracy")
    costs = comparison.cost.set_index("row")
    known = _costs_that_differ(comparison)
    figure, panels = wide_grid(comparison, len(known), height=3.8)
    for axes, (name, words) in zip(panels, known.items(), strict=True):
        size, unit = time_unit(costs[name].max()) if name == "seconds" else (1, "")
        points = []
        for row in comparison.rows:
            x, score = float(costs[name][row.label]) / size, scores[row.label]
            if np.isnan(x):
                continue
            colour, _, marker = looks_of(comparison, row.label)
            axes.plot([x, x], [score["low"], score["high"]], color=colour, linewidth=1.2, alpha=0.45)
            axes.plot(x, score["mean"], marker, color=colour, markersize=7)
            points.append((x, float(score["mean"]), short_label(comparison, row.label), colour))
        low, high = min(p[0] for p in points), max(p[0] for p in points)
        room = 0.2 * (high - low) or 0.5 * high
        axes.set_xlim(max(0, low - room), high + 2.2 * room)
        label_points(axes, points)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        if not unit:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
        axes.set_title("balanced accuracy", loc="left")
        axes.set_xlabel(f"{words}, {unit}" if unit else words)
        axes.grid(axis="y")
    return figure


def draw_deployed(comparison: Comparison) -> Figure:
    """Draw balanced accuracy against latency and size, once exported: float32 filled, int8 open."""
    figure, panels = wide_grid(comparison, len(COSTS), height=3.8)
    for axes, (cost, words) in zip(panels, COSTS.items(), strict=True):
        points = []
        for _, line in comparison.deployed.iterrows():
            colour, _, marker = looks_of(comparison, line["row"])
            x, y = ([line[f"{name}_{file}"] for file in FILES] for name in (cost, "balanced_accuracy"))
            axes.plot(x, y, color=colour, linewidth=1.2, alpha=0.45)
            for place, face in enumerate((colour, "none")):
                axes.plot(x[place], y[place], marker, color=colour, mfc=face, markersize=7, mew=1.8)
            points.append((x[0], y[0], short_label(comparison, line["row"]), colour))
        axes.set(xlim=(0, 1.7 * max(point[0] for point in points)), xlabel=words)
        label_points(axes, points)
        axes.set_title("balanced accuracy", loc="left")
    return figure


def _costs_that_differ(comparison: Comparison) -> dict[str, str]:
    """Return the columns of ``cost`` with more than one value, which deserve a panel, and their names in print."""
    words = {"macs": "MACs of one image", "parameters": "parameters", "seconds": "training time"}
    return {name: text for name, text in words.items() if comparison.cost[name].nunique() > 1}
