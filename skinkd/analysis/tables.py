"""Every table of a comparison, rounded and worded once: what the terminal, Markdown, LaTeX and HTML show alike."""

import math
from dataclasses import dataclass

import pandas as pd

from skinkd.analysis.aggregate import METRICS
from skinkd.analysis.comparison import LOWER_IS_BETTER, Comparison

UNDEFINED = "-"


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table.

    Attributes:
        text: the words or the rounded number.
        note: a second, smaller line; empty for none.
        bold: whether it stands out; the table's caption says why.
        value: the number behind the text, to sort by; None for words.
    """

    text: str
    note: str = ""
    bold: bool = False
    value: float | None = None


@dataclass(frozen=True)
class Table:
    """A table ready to be set.

    Attributes:
        name: short, for labels and anchors.
        title: what it is.
        caption: what its numbers, intervals and tests are, in one sentence.
        more: what else to know of them; may be empty.
        header: one word or more for each column.
        rows: cells, as many in each row as in the header.
        words: how many columns from the left are words; the others are numbers.
    """

    name: str
    title: str
    caption: str
    more: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: int


def number(value: float | None) -> str:
    """Three decimals."""
    return UNDEFINED if value is None or math.isnan(value) else f"{value:.3f}"


def difference(value: float) -> str:
    """Three decimals, always with a sign."""
    return UNDEFINED if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def bounds(low: float, high: float) -> str:
    """An interval in words; empty where it is undefined."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"{low:.3f} to {high:.3f}".replace("-", "−")


def spread(mean: float, sd: float) -> str:
    """Mean ± standard deviation; the latter is - for one run."""
    return UNDEFINED if math.isnan(mean) else f"{mean:.3f} ± {number(sd)}"


def p_value(value: float) -> str:
    """Three decimals, or that it is less than the least of them."""
    if math.isnan(value):
        return UNDEFINED
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def amount(value: float) -> str:
    """Three digits with k, M or G, for parameters and multiply-adds."""
    if math.isnan(value):
        return UNDEFINED
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= 0.9995 * factor:
            return f"{value / factor:#.3g}".rstrip(".") + unit
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Seconds, minutes, or hours and minutes."""
    if math.isnan(seconds):
        return UNDEFINED
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def percent(level: float) -> str:
    """A confidence as 95 %."""
    return f"{100 * level:g} %"


def all_tables(comparison: Comparison) -> list[Table]:
    """The tables in the order to read them; none that would be empty."""
    tables = [scores_table(comparison), tests_table(comparison), per_class_table(comparison)]
    tables += [calibration_table(comparison), cost_table(comparison), runs_table(comparison)]
    return [table for table in tables if table.rows]


def scores_table(comparison: Comparison) -> Table:
    """Row × metric: mean ± sd over runs, and the interval by lesion."""
    best = _best(comparison)
    protocol = comparison.protocol
    rows = []
    for row in comparison.rows:
        lines = comparison.scores[comparison.scores["row"] == row.label].set_index("metric")
        cells = [Cell(row.label), _count(len(row.runs))]
        for name in comparison.metrics:
            one = {part: float(lines[part][name]) for part in ("mean", "sd", "low", "high")}
            cells.append(
                Cell(
                    spread(one["mean"], one["sd"]),
                    bounds(one["low"], one["high"]),
                    (row.label, name) in best,
                    one["mean"],
                )
            )
        rows.append(tuple(cells))
    level, alpha = percent(protocol.level), f"{1 - protocol.level:.3g}"
    caption = (
        f"Test set: mean ± standard deviation over runs (seeds and folds; {UNDEFINED} for one run), and with it the {level} "
        f"interval of the mean, from {protocol.replicates:,} resamplings of the test set by lesion."
    )
    more = (
        "The standard deviation is the spread between trainings, the interval that between lesions; neither includes the "
        "other."
    )
    if set(comparison.metrics) & set(LOWER_IS_BETTER):
        names = [METRICS[name] for name in comparison.metrics if name in LOWER_IS_BETTER]
        more += f" Lower is better for {', '.join(names)}, higher for the others."
    if comparison.baselines:
        more += (
            " Bold: the best mean of a column, where its paired difference to the baseline is beyond chance "
            f"(p < {alpha} after Holm); it does not say that the second best is worse."
        )
    header = ("", "runs", *(METRICS[name] for name in comparison.metrics))
    return Table("scores", "Test metrics", caption, more, header, tuple(rows), 1)


def _best(comparison: Comparison) -> set[tuple[str, str]]:
    result = set()
    for name in comparison.metrics:
        lines = comparison.scores[comparison.scores["metric"] == name].set_index("row")
        means = -lines["mean"] if name in LOWER_IS_BETTER else lines["mean"]
        if means.isna().any() or (means == means.max()).sum() != 1:
            continue
        label = str(means.idxmax())
        tests = comparison.tests
        chosen = tests[(tests["row"] == label) & (tests["metric"] == name) & (tests["test"] == "paired bootstrap")]
        if len(chosen) and float(chosen["p_holm"].iloc[0]) < 1 - comparison.protocol.level:
            result.add((label, name))
    return result


def tests_table(comparison: Comparison) -> Table:
    """A line for each test and row: difference, interval, p and adjusted p."""
    tests = comparison.tests
    baselines = sorted(set(comparison.baselines.values()))
    several = len(baselines) > 1
    lines: list[tuple[Cell, ...]] = []
    for name in METRICS if len(tests) else ():
        for test in ("paired bootstrap", "McNemar", "DeLong"):
            if test == "paired bootstrap" and name not in comparison.metrics:
                continue
            for _, one in tests[(tests["metric"] == name) & (tests["test"] == test)].iterrows():
                cells = [
                    Cell(METRICS[name] if test == "paired bootstrap" else f"{METRICS[name]}, {test}"),
                    Cell(str(one["row"]), note=f"against {one['baseline']}" if several else ""),
                    Cell(difference(one["difference"]), value=one["difference"]),
                    Cell(bounds(one["low"], one["high"]) or UNDEFINED),
                    Cell(p_value(one["p"]), value=one["p"]),
                    Cell(p_value(one["p_holm"]), value=one["p_holm"]),
                ]
                lines.append(tuple(cells))
    against = "its baseline" if several else "".join(baselines)
    level = percent(comparison.protocol.level)
    caption = (
        f"Difference to {against} on the same test images, mean over runs, with its {level} interval and two-sided p from a "
        f"paired bootstrap by lesion ({comparison.protocol.replicates:,} draws); McNemar's test of accuracy and DeLong's "
        "of AUROC, both clustered by lesion."
    )
    more = (
        "p (Holm) is adjusted for the number of rows tested, for each test and metric by itself. All of them speak of these "
        "trained networks on other lesions, not of other trainings."
    )
    header = ("metric", "", "difference", f"{level} interval", "p", "p (Holm)")
    return Table("tests", f"Difference to {against}", caption, more, header, tuple(lines), 2)


def per_class_table(comparison: Comparison) -> Table:
    """Each class, and in it each row."""
    table = comparison.per_class
    rows = []
    for name in dict.fromkeys(table["class"]):
        for _, one in table[table["class"] == name].iterrows():
            rows.append(
                (
                    Cell(str(name)),
                    Cell(str(one["row"])),
                    _count(one["n"]),
                    _count(one["lesions"]),
                    Cell(number(one["sensitivity"]), value=one["sensitivity"]),
                    Cell(bounds(one["sensitivity_low"], one["sensitivity_high"]) or UNDEFINED),
                    *(Cell(number(one[m]), value=one[m]) for m in ("specificity", "precision", "f1", "auroc")),
                )
            )
    level = percent(comparison.protocol.level)
    caption = (
        f"Test set, one class against the others, means over runs. The {level} interval of sensitivity is Wilson's with "
        "lesions as the sample size."
    )
    header = ("class", "", "images", "lesions", "sensitivity", f"{level} interval")
    return Table(
        "per_class", "By class", caption, "", (*header, "specificity", "precision", "F1", "AUROC"), tuple(rows), 2
    )


def calibration_table(comparison: Comparison) -> Table:
    """Calibration before and after temperature scaling."""
    names = {"ece": "ECE", "loss": "NLL", "brier": "Brier score"}
    rows = []
    for _, one in comparison.calibration.iterrows():
        if pd.isna(one.get("temperature", float("nan"))):
            continue
        cells = [
            Cell(str(one["row"])),
            Cell(spread(one["temperature"], one["temperature_sd"]), value=one["temperature"]),
        ]
        for name in names:
            for part in ("before", "after"):
                mean, sd = one[f"{name}_{part}"], one[f"{name}_{part}_sd"]
                cells.append(Cell(spread(mean, sd), value=mean))
        rows.append(tuple(cells))
    caption = (
        "Test set, mean ± standard deviation over runs, before and after dividing the logits by a temperature T that each "
        "run fits on its own validation part."
    )
    more = f"ECE in {comparison.protocol.calibration_bins} equal bins of the confidence."
    header = ("", "T", *(f"{label}, {part}" for label in names.values() for part in ("before", "after")))
    return Table("calibration", "Calibration", caption, more, header, tuple(rows), 1)


def cost_table(comparison: Comparison) -> Table:
    """What a row costs to deploy and to train."""
    rows = tuple(
        (
            Cell(str(one["row"])),
            _count(one["runs"]),
            Cell(amount(one["parameters"]), value=one["parameters"]),
            Cell(amount(one["macs"]), value=one["macs"]),
            Cell(duration(one["seconds"]), value=one["seconds"]),
        )
        for _, one in comparison.cost.iterrows()
    )
    caption = (
        "Parameters and multiply-adds (MACs, of one image) of the network that is deployed, and its training time."
    )
    more = (
        "Training time is the mean over runs of the seconds spent in epochs, without the teacher's training, on whatever "
        "machine the runs had."
    )
    return Table("cost", "Cost", caption, more, ("", "runs", "parameters", "MACs", "training time"), rows, 1)


def runs_table(comparison: Comparison) -> Table:
    """Every run by itself."""
    rows = []
    for _, one in comparison.runs.iterrows():
        epochs = "-" if pd.isna(one["best_epoch"]) else f"{one['best_epoch']:.0f} of {one['epochs']:.0f}"
        cells = [
            Cell(str(one["row"])),
            Cell(str(one["folder"])),
            _count(one["seed"]),
            _count(one["fold"]),
            Cell(epochs),
        ]
        rows.append((*cells, *(Cell(number(one[name]), value=one[name]) for name in comparison.metrics)))
    header = ("", "run folder", "seed", "fold", "epoch", *(METRICS[name] for name in comparison.metrics))
    caption = "Each run by itself, on the test set; the epoch is the one that validation chose."
    return Table("runs", "Runs", caption, "", header, tuple(rows), 2)


def _count(value: float | None) -> Cell:
    undefined = value is None or pd.isna(value)
    return Cell(UNDEFINED) if undefined else Cell(f"{value:,.0f}", value=float(value))  # type: ignore[arg-type]
