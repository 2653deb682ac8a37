"""The tables of a comparison, rounded and in words. Terminal, Markdown, LaTeX and HTML show the same tables."""

import pandas as pd

from skinkd.analysis.abstention import ALL, COVERAGE
from skinkd.analysis.aggregate import METRICS
from skinkd.analysis.comparison import Comparison
from skinkd.analysis.deployed import COSTS, FILES
from skinkd.analysis.deployed import SCORES as DEPLOYED_SCORES
from skinkd.analysis.explanations import MARK
from skinkd.analysis.explanations import SCORES as EXPLANATION_SCORES
from skinkd.analysis.formats import (
    UNDEFINED,
    Cell,
    Table,
    amount,
    bounds,
    count,
    difference,
    digits,
    duration,
    number,
    p_value,
    percent,
    spread,
)
from skinkd.scoring.metrics import LOWER_IS_BETTER


def all_tables(comparison: Comparison) -> list[Table]:
    """Return the tables in reading order, without empty tables."""
    tables = [scores_table(comparison), tests_table(comparison), per_class_table(comparison)]
    tables += [calibration_table(comparison), abstention_table(comparison), abstention_by_class_table(comparison)]
    tables += [explanations_table(comparison)]
    tables += [cost_table(comparison), deployed_table(comparison), runs_table(comparison)]
    return [table for table in tables if table.rows]


def scores_table(comparison: Comparison) -> Table:
    """Return the table of scores, row × metric: mean ± sd over runs, and the interval by lesion."""
    best = _best(comparison)
    protocol = comparison.protocol
    rows = []
    for row in comparison.rows:
        lines = comparison.scores[comparison.scores["row"] == row.label].set_index("metric")
        cells = [Cell(row.label), count(len(row.runs))]
        for name in comparison.metrics:
            score = {part: float(lines[part][name]) for part in ("mean", "sd", "low", "high")}
            cells.append(
                Cell(
                    spread(score["mean"], score["sd"]),
                    bounds(score["low"], score["high"]),
                    (row.label, name) in best,
                    score["mean"],
                )
            )
        rows.append(tuple(cells))
    level, alpha = percent(protocol.level), f"{1 - protocol.level:.3g}"
    caption = (
        f"Test set: mean ± standard deviation over runs (seeds and folds; {UNDEFINED} for one run), with the {level} "
        f"interval of the mean, from {protocol.replicates:,} resamplings of the test set by lesion."
    )
    more = (
        "The standard deviation is the spread between trainings. The interval is the spread between lesions. Neither includes "
        "the other."
    )
    if set(comparison.metrics) & set(LOWER_IS_BETTER):
        names = [METRICS[name] for name in comparison.metrics if name in LOWER_IS_BETTER]
        more += f" Lower is better for {', '.join(names)}, higher for the others."
    if comparison.baselines:
        more += (
            " Bold: the best mean of a column, if its paired difference to the baseline is significant "
            f"(p < {alpha} after Holm). This does not mean that the second best is worse."
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
    """Return the table of tests, a line for each test and row: difference, interval, p and adjusted p."""
    tests = comparison.tests
    baselines = sorted(set(comparison.baselines.values()))
    several = len(baselines) > 1
    lines: list[tuple[Cell, ...]] = []
    for name in METRICS if len(tests) else ():
        for test in ("paired bootstrap", "McNemar", "DeLong"):
            if test == "paired bootstrap" and name not in comparison.metrics:
                continue
            for _, test_line in tests[(tests["metric"] == name) & (tests["test"] == test)].iterrows():
                cells = [
                    Cell(METRICS[name] if test == "paired bootstrap" else f"{METRICS[name]}, {test}"),
                    Cell(str(test_line["row"]), note=f"against {test_line['baseline']}" if several else ""),
                    Cell(difference(test_line["difference"]), value=test_line["difference"]),
                    Cell(
                        bounds(test_line["low"], test_line["high"]) or UNDEFINED,
                        bounds(test_line["trained_low"], test_line["trained_high"]),
                    ),
                    *(
                        Cell(
                            p_value(test_line[p]),
                            "" if pd.isna(test_line[f"trained_{p}"]) else p_value(test_line[f"trained_{p}"]),
                            value=test_line[p],
                        )
                        for p in ("p", "p_holm")
                    ),
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
        "p (Holm) is adjusted for the number of rows tested, separately for each test and metric. These numbers hold for these "
        "trained networks on new lesions."
    )
    if tests["trained_p"].notna().any():
        more += (
            " The second line holds for new trainings too, with seeds or folds as the sample. It answers whether the method "
            "helps; two or three trainings leave it wide."
        )
    header = ("metric", "", "difference", f"{level} interval", "p", "p (Holm)")
    return Table("tests", f"Difference to {against}", caption, more, header, tuple(lines), 2)


def per_class_table(comparison: Comparison) -> Table:
    """Return the table of metrics by class, with a line for each row in each class."""
    table = comparison.per_class
    rows = []
    for name in dict.fromkeys(table["class"]):
        for _, line in table[table["class"] == name].iterrows():
            rows.append(
                (
                    Cell(str(name)),
                    Cell(str(line["row"])),
                    count(line["n"]),
                    count(line["lesions"]),
                    Cell(number(line["sensitivity"]), value=line["sensitivity"]),
                    Cell(bounds(line["sensitivity_low"], line["sensitivity_high"]) or UNDEFINED),
                    *(Cell(number(line[m]), value=line[m]) for m in ("specificity", "precision", "f1", "auroc")),
                )
            )
    level = percent(comparison.protocol.level)
    caption = (
        f"Test set, each class against the others, means over runs. The {level} interval of sensitivity is Wilson's, with "
        "the number of lesions as the sample size."
    )
    header = ("class", "", "images", "lesions", "sensitivity", f"{level} interval")
    return Table(
        "per_class", "By class", caption, "", (*header, "specificity", "precision", "F1", "AUROC"), tuple(rows), 2
    )


def calibration_table(comparison: Comparison) -> Table:
    """Return the table of calibration before and after temperature scaling."""
    names = {"ece": "ECE", "loss": "NLL", "brier": "Brier score"}
    rows = []
    for _, line in comparison.calibration.iterrows():
        if pd.isna(line.get("temperature", float("nan"))):
            continue
        cells = [
            Cell(str(line["row"])),
            Cell(spread(line["temperature"], line["temperature_sd"]), value=line["temperature"]),
        ]
        for name in names:
            for part in ("before", "after"):
                mean, sd = line[f"{name}_{part}"], line[f"{name}_{part}_sd"]
                cells.append(Cell(spread(mean, sd), value=mean))
        rows.append(tuple(cells))
    caption = (
        "Test set, mean ± standard deviation over runs, before and after dividing the logits by a temperature T, which is "
        "fitted on the validation part of each run."
    )
    more = f"ECE with {comparison.protocol.calibration_bins} equal bins of the confidence."
    header = ("", "T", *(f"{label}, {part}" for label in names.values() for part in ("before", "after")))
    return Table("calibration", "Calibration", caption, more, header, tuple(rows), 1)


def abstention_table(comparison: Comparison) -> Table:
    """Return the table of abstention over all images."""
    rows = []
    for _, line in comparison.abstention[comparison.abstention["class"] == ALL].iterrows():
        names = ("aurc", "aurc_excess", "accuracy", "coverage", "accuracy_kept")
        rows.append((Cell(str(line["row"])), *(Cell(number(line[name]), value=line[name]) for name in names)))
    caption = (
        "Test set, means over runs. A network abstains where it is less confident than a threshold, which keeps "
        f"{percent(COVERAGE)} of the images of its validation part."
    )
    more = (
        "AURC is the area under the risk–coverage curve: the mean error among the most confident images, over all numbers of "
        "images kept. Its excess is what a better order of the same predictions could remove. Lower is better for both."
    )
    header = ("", "AURC", "excess AURC", "accuracy", "share kept", "accuracy of the kept")
    return Table("abstention", "Abstention", caption, more, header, tuple(rows), 1)


def abstention_by_class_table(comparison: Comparison) -> Table:
    """Return the table of what abstention keeps of each class."""
    lines = comparison.abstention[comparison.abstention["class"] != ALL]
    rows = []
    for name in dict.fromkeys(lines["class"]):
        for _, line in lines[lines["class"] == name].iterrows():
            shares = (line[part] for part in ("coverage", "accuracy", "accuracy_kept"))
            cells = (Cell(number(share), value=share) for share in shares)
            rows.append((Cell(str(name)), Cell(str(line["row"])), count(line["n"]), *cells))
    caption = (
        "Test set, means over runs, with the thresholds of the table before. Where much less is kept of a class than of all "
        "images, the gain in accuracy is a change of the mixture."
    )
    header = ("class", "", "images", "share kept", "sensitivity", "sensitivity of the kept")
    return Table("abstention_by_class", "Abstention by class", caption, "", header, tuple(rows), 2)


def explanations_table(comparison: Comparison) -> Table:
    """Return the table of explanation scores, a line for each method of explanation, score and row."""
    rows = []
    for _, line in comparison.explanations.iterrows():
        label = str(line["row"]) if line["depends"] else f"{line['row']} {MARK}"
        cells = [Cell(f"{line['map']}: {EXPLANATION_SCORES[line['score']]}"), Cell(label)]
        cells.append(Cell(spread(line["mean"], line["sd"]), bounds(line["low"], line["high"]), value=line["mean"]))
        cells.append(
            Cell(
                difference(line["difference"]),
                bounds(line["difference_low"], line["difference_high"]),
                value=line["difference"],
            )
        )
        cells += [Cell(p_value(line[name]), value=line[name]) for name in ("p", "p_holm")]
        rows.append(tuple(cells))
    level = percent(comparison.protocol.level)
    caption = (
        "Scores of explanations (python -m skinkd.explain) on the same test images: mean ± standard deviation over runs, and "
        f"the difference to the baseline, paired by image, both with {level} intervals by lesion."
    )
    more = (
        "p (Holm) is adjusted for the number of rows tested, separately for each map and score. Networks are explained for the "
        "class that each predicts."
    )
    if not comparison.explanations["depends"].all():
        more += (
            f" {MARK}: in at least one run of the row these maps do not depend on what was learned, so their differences say "
            "nothing about it."
        )
    header = ("map", "", "score", "difference", "p", "p (Holm)")
    return Table("explanations", "Where they look", caption, more, header, tuple(rows), 2)


def cost_table(comparison: Comparison) -> Table:
    """Return the table of what a row costs to deploy and to train."""
    rows = tuple(
        (
            Cell(str(line["row"])),
            count(line["runs"]),
            Cell(amount(line["parameters"]), value=line["parameters"]),
            Cell(amount(line["macs"]), value=line["macs"]),
            Cell(duration(line["seconds"]), value=line["seconds"]),
        )
        for _, line in comparison.cost.iterrows()
    )
    caption = "Parameters and multiply-adds (MACs, for one image) of the deployed network, and its training time."
    more = (
        "Training time is the mean over runs of the seconds spent in epochs, without the teacher's training. Runs may come "
        "from different machines."
    )
    return Table("cost", "Cost", caption, more, ("", "runs", "parameters", "MACs", "training time"), rows, 1)


def deployed_table(comparison: Comparison) -> Table:
    """Return the table of what rows cost and score once exported; without rows if no run has an export."""
    rows = []
    for _, line in comparison.deployed.iterrows():
        cells = [Cell(str(line["row"])), count(line["exports"])]
        for name, show in [*((cost, digits) for cost in COSTS), *((score, number) for score in DEPLOYED_SCORES)]:
            cells += [Cell(show(line[f"{name}_{file}"]), value=line[f"{name}_{file}"]) for file in FILES]
        rows.append(tuple(cells))
    units = ("ms", "MB", *(METRICS[name] for name in DEPLOYED_SCORES))
    header = ("", "exports", *(f"{unit}, {file}" for unit in units for file in FILES.values()))
    caption = (
        "Exports of the runs, means over runs: milliseconds for one image with ONNX Runtime, megabytes of the file, and scores "
        "on the test set."
    )
    more = "Latency was measured where a run was exported: compare exports from one machine."
    return Table("deployed", "Once exported", caption, more, header, tuple(rows), 1)


def runs_table(comparison: Comparison) -> Table:
    """Return the table of all runs."""
    rows = []
    for _, line in comparison.runs.iterrows():
        epochs = "-" if pd.isna(line["best_epoch"]) else f"{line['best_epoch']:.0f} of {line['epochs']:.0f}"
        cells = [
            Cell(str(line["row"])),
            Cell(str(line["folder"])),
            count(line["seed"]),
            count(line["fold"]),
            Cell(epochs),
        ]
        rows.append((*cells, *(Cell(number(line[name]), value=line[name]) for name in comparison.metrics)))
    header = ("", "run folder", "seed", "fold", "epoch", *(METRICS[name] for name in comparison.metrics))
    caption = "Each run, on the test set. The epoch is the epoch that validation chose."
    return Table("runs", "Runs", caption, "", header, tuple(rows), 2)
