"""The output of a search: a line for each trial, the best five trials, and a plot of all trials.

It is made from the table of trials: number (from 1), state (complete, pruned or failed), value, epochs, seconds, a column
for each setting, folder, reason.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.text import Text

from skinkd.runs.plots import save_figure
from skinkd.runs.tables import plain_table

_SHOWN = 5


def short_names(settings: Iterable[str]) -> dict[str, str]:
    """Return for each dotted name its shortest unique ending: ``optim.lr`` -> ``lr``."""
    names = list(settings)
    short = {}
    for name in names:
        parts = name.split(".")
        ends = [".".join(parts[place:]) for place in range(len(parts) - 1, -1, -1)]
        free = [end for end in ends if sum(f".{name}".endswith(f".{end}") for name in names) == 1]
        short[name] = next(iter(free), name)
    return short


def best_first(table: pd.DataFrame, mode: str) -> pd.DataFrame:
    """Return the complete trials, best first; among equals the earlier trial first."""
    complete = table[table["state"] == "complete"]
    return complete.sort_values("value", ascending=mode == "min", kind="stable")


def trial_line(table: pd.DataFrame, number: int, total: int, settings: Iterable[str], mode: str) -> str:
    """Return a line on the result of the trial with this number (from 0) and the best value so far."""
    row = table[table["number"] == number + 1].iloc[0]
    parameters = _parameters(row, settings)
    head = f"trial {row['number']:>{len(str(total))}} of {total}"
    if row["state"] == "failed":
        return f"{head}  FAILED  {parameters}  {row['reason']}"
    ranked = best_first(table, mode)
    best = ranked.iloc[0] if len(ranked) else None
    after = f"pruned at epoch {row['epochs']:.0f}" if row["state"] == "pruned" else "complete"
    so_far = "" if best is None else "best" if best["number"] == row["number"] else f"best {best['value']:.4f}"
    return f"{head}  {after:<17} {row['value']:.4f}  {so_far:<11}  {parameters}"


def print_end(
    table: pd.DataFrame,
    settings: Iterable[str],
    *,
    metric: str,
    mode: str,
    importances: Mapping[str, float],
    command: str,
    folder: Path,
    console: Console,
) -> None:
    """Print the counts of the trials, the best five, the importances if any, and the best trial's command on one line."""
    settings = list(settings)
    counts = table["state"].value_counts()
    ended = ", ".join(f"{counts[state]} {state}" for state in ("complete", "pruned", "failed") if state in counts)
    ranked = best_first(table, mode).head(_SHOWN)
    shown = plain_table("trial", metric, "epochs", "settings")
    shown.columns[-1].justify, shown.columns[-1].no_wrap = "left", False
    for _, row in ranked.iterrows():
        shown.add_row(
            f"{row['number']}", f"{row['value']:.4f}", f"{row['epochs']:.0f}", Text(_parameters(row, settings))
        )
    console.print()
    console.print(Text(f"{len(table)} trials: {ended}", style="bold"))
    console.print(shown)
    if importances:
        short = short_names(settings)
        listed = "  ".join(f"{short[name]} {value:.2f}" for name, value in importances.items())
        console.print("\nimportance of the settings (PED-ANOVA, shares):", markup=False)
        console.print(Text(listed))
    console.print("\nstudy folder:")
    console.print(Text(str(folder)), soft_wrap=True)
    console.print("\nthe best trial, scored on test too:")
    console.print(Text(command), soft_wrap=True)


def plot_search(table: pd.DataFrame, path: Path, *, metric: str, mode: str) -> Path:
    """Draw each trial's value and the best so far against the trial's number; return ``path``, a PNG file.

    A pruned trial is drawn at the value of its last epoch, a failed trial as a cross on the axis.
    """
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    state, number, value = table["state"], table["number"], table["value"].astype(float)
    complete, pruned, failed = (state == name for name in ("complete", "pruned", "failed"))
    axes.plot(number[complete], value[complete], "o", color="#0072B2", markersize=6, label="complete")
    if pruned.any():
        axes.plot(number[pruned], value[pruned], "o", color="#0072B2", mfc="none", markersize=6, label="pruned")
    best = value[complete].cummax() if mode == "max" else value[complete].cummin()
    steps = pd.concat([number[complete], best], axis=1)
    steps.loc[len(table)] = [number.max(), best.iloc[-1]]
    axes.step(steps["number"], steps["value"], where="post", color="#D55E00", linewidth=1.5, label="best so far")
    if failed.any():
        axes.plot(
            number[failed],
            [0.0] * int(failed.sum()),
            "x",
            color="#000000",
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            label="failed",
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("trial")
    axes.set_ylabel(f"{metric}, best epoch")
    axes.set_title(f"Best of {len(table)} trials: {best.iloc[-1]:.4f}", fontsize=12)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return save_figure(figure, path)


def _parameters(row: Any, settings: Iterable[str]) -> str:
    return " ".join(f"{short}={_text(row[name])}" for name, short in short_names(settings).items())


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
