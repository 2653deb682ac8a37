"""Computes the numbers of a comparison: tables from rows of runs. Nothing is drawn, rounded or written here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from skinkd.analysis.abstention import abstention_lines, risk_lines
from skinkd.analysis.aggregate import (
    METRICS,
    Protocol,
    calibration_line,
    class_lines,
    cost_line,
    curve_lines,
    mean_confusion,
    pooled_reliability,
    run_lines,
    scaled_tables,
    score_lines,
)
from skinkd.analysis.deployed import deployed_lines
from skinkd.analysis.explanations import compare_explanations
from skinkd.analysis.rows import Row, check_comparable, mixed_formats
from skinkd.analysis.statistics import delong, holm, mcnemar, paired_differences
from skinkd.analysis.trainings import difference_over_trainings
from skinkd.errors import UserError, check_choice, nearest
from skinkd.scoring.bootstrap import Resampled, resample
from skinkd.scoring.predictions import Floats

MAIN_METRICS = ("accuracy", "balanced_accuracy", "f1_macro", "auroc_macro", "ece")
DEFAULT_BASELINE = "supervised"
TRAINED = ("low", "high", "p")  # columns of the tests over trainings and lesions, after ``trained_``
_WEIGHTY = ("backbone.name", "data.name", "protocol", "data.image_size", "trainer.max_epochs", "backbone.pretrained")
"""Settings to name first if rows differ in more than the method."""
_NAMED = 4  # most settings that a remark on such a difference names


@dataclass(frozen=True)
class Comparison:
    """The numbers of a comparison; each table's column ``row`` holds the label of its row.

    Attributes:
        rows: baselines first, then by label.
        metrics: names of the metrics to show; ``scores`` and ``tests`` hold all metrics.
        protocol: calibration bins, replicates, confidence, seed of the draws.
        baselines: label of a row -> label of its baseline; a row without a baseline is not a key.
        scores: row, metric, mean, sd (over runs, NaN for one run), low, high (interval of the mean, by lesion),
            trained_low, trained_high (over lesions and trainings, NaN for one training).
        runs: a line for each run: row, folder, seed, fold, epochs, best_epoch, and every metric.
        cost: row, runs, parameters, macs, seconds (training, mean over runs); NaN if a run lacks the number.
        deployed: what the exports of a row's runs cost and score (``deployed.COLUMNS``); only rows with an export.
        tests: row, baseline, test, metric, difference, low, high, statistic, p, p_holm; of the paired bootstrap also
            trained_low, trained_high, trained_p, trained_p_holm, over lesions and trainings.
        per_class: row, class, n, lesions, and each metric of the class: mean and sd over runs.
        confusion: by label, the share of each true class (row) predicted as each class, mean over runs, (K, K).
        calibration: row, temperature, temperature_sd, and mean and sd of ece, loss and brier before and after scaling.
        reliability: by label, then "before" and "after": bins with mean confidence, accuracy and number of images.
        abstention: of ``abstention.abstention_lines``; no line of a row without validation predictions.
        risk: of ``abstention.risk_lines``: row, coverage, risk.
        curves: row, metric, epoch, mean, low, high (least and greatest run), runs.
        explanations: of ``explanations.compare_explanations``; no line if no row's runs are all explained.
        notes: sentences that a reader of the tables must know.
    """

    rows: tuple[Row, ...]
    metrics: tuple[str, ...]
    protocol: Protocol
    baselines: dict[str, str]
    scores: pd.DataFrame
    runs: pd.DataFrame
    cost: pd.DataFrame
    deployed: pd.DataFrame
    tests: pd.DataFrame
    per_class: pd.DataFrame
    confusion: dict[str, Floats]
    calibration: pd.DataFrame
    reliability: dict[str, dict[str, pd.DataFrame]]
    abstention: pd.DataFrame
    risk: pd.DataFrame
    curves: pd.DataFrame
    explanations: pd.DataFrame
    notes: tuple[str, ...]


def compare(
    rows: Sequence[Row],
    *,
    baseline: str | None = None,
    metrics: Sequence[str] = MAIN_METRICS,
    across_test_sets: bool = False,
    progress: Callable[[str], object] = lambda text: None,
) -> Comparison:
    """Compute all numbers of a comparison.

    Args:
        rows: see ``runs.group_rows``.
        baseline: label of a row, or a method; None: ``supervised``. If the method has several rows, each row is tested
            against the row with the same network that differs in the fewest settings.
        metrics: names in ``METRICS``, in the order to show.
        across_test_sets: let test sets differ; then nothing is tested.
        progress: called with a text on the current step.

    Raises:
        UserError: test sets, classes or evaluation settings differ, or a name is unknown.
    """
    if not metrics:
        raise UserError(f"--metrics names no metric; give one or more of {', '.join(METRICS)}")
    for name in metrics:
        check_choice("--metrics", name, METRICS)
    check_comparable(rows, across=across_test_sets)
    protocol = _protocol(rows)
    baselines, notes = find_baselines(rows, baseline)
    ordered = sorted(rows, key=lambda row: (row.label not in baselines.values(), row.label))
    if across_test_sets:
        baselines, notes = {}, ["Test sets may differ between the rows, so nothing is tested and no row is best."]
    scores, tests = [], []
    drawn: dict[str, Resampled] = {}
    for row in ordered:
        progress(f"intervals of {row.label}")
        drawn[row.label] = _resampled(row, protocol)
        scores.append(score_lines(row, drawn[row.label], protocol))
    by_label = {row.label: row for row in ordered}
    for row in ordered:
        if row.label in baselines:
            base = by_label[baselines[row.label]]
            progress(f"{row.label} against {base.label}")
            # both have the same test sets, and so the same draws of lesions
            tests.append(_tests(row, base, drawn[row.label].joined(drawn[base.label]), protocol))
            _note_difference(row, base, notes)
    notes += mixed_formats(ordered)
    notes += _too_few_draws(tests, metrics, protocol)
    parts = {}
    for row in ordered:
        scaled = scaled_tables(row)
        parts[row.label] = {part: pooled_reliability(tables, row, protocol) for part, tables in scaled.items()}
    if missing := [row.label for row in ordered if not parts[row.label]]:
        notes.append(
            f"No validation predictions, so no temperature and no threshold of abstention is fitted: {', '.join(missing)}."
        )
    explanations, more = compare_explanations(ordered, baselines, protocol, progress)
    notes += more
    return Comparison(
        rows=tuple(ordered),
        metrics=tuple(dict.fromkeys(metrics)),
        protocol=protocol,
        baselines=baselines,
        scores=pd.concat(scores, ignore_index=True),
        runs=pd.concat([run_lines(row, protocol) for row in ordered], ignore_index=True),
        cost=pd.DataFrame([cost_line(row) for row in ordered]),
        deployed=deployed_lines(ordered),
        tests=_adjusted(tests),
        per_class=pd.concat([class_lines(row, protocol) for row in ordered], ignore_index=True),
        confusion={row.label: mean_confusion(row) for row in ordered},
        calibration=pd.DataFrame([calibration_line(row, protocol) for row in ordered]),
        reliability=parts,
        abstention=pd.concat([abstention_lines(row) for row in ordered], ignore_index=True),
        risk=pd.concat([risk_lines(row) for row in ordered], ignore_index=True),
        curves=pd.concat([curve_lines(row) for row in ordered], ignore_index=True),
        explanations=explanations,
        notes=tuple(notes),
    )


def find_baselines(rows: Sequence[Row], name: str | None) -> tuple[dict[str, str], list[str]]:
    """Return the baseline's label for each row that has a baseline, and remarks on the other rows.

    Raises:
        UserError: ``name`` is neither a label nor a method of these rows.
    """
    labels = [row.label for row in rows]
    if name in labels:
        return {label: str(name) for label in labels if label != name}, []
    candidates = [row for row in rows if row.method == (name or DEFAULT_BASELINE)]
    if not candidates:
        if name is not None:
            raise UserError(
                f"--baseline {name} is neither a row nor a method{nearest(name, {*labels, *(r.method for r in rows)})}"
            )
        return {}, [f"Nothing is tested: there is no {DEFAULT_BASELINE} row; name a row with --baseline."]
    taken = {row.label for row in candidates}
    result: dict[str, str] = {}
    untested = []
    for row in rows:
        if row.label in taken:
            continue
        chosen = candidates[0] if len(candidates) == 1 else _nearest_row(row, candidates)
        if chosen is None:
            untested.append(row.label)
        else:
            result[row.label] = chosen.label
    if not untested:
        return result, []
    method = candidates[0].method
    return result, [
        f"Not tested, because no single {method} row has the same network and settings: {', '.join(untested)}."
    ]


def _nearest_row(row: Row, candidates: Sequence[Row]) -> Row | None:
    """Return the candidate with the same network that differs in the fewest settings outside the method; None for a tie."""

    def part(of: Row, *, network: bool) -> set[tuple[str, str]]:
        kept = {key: value for key, value in of.settings.items() if not key.startswith("method.")}
        return {(key, str(value)) for key, value in kept.items() if key.startswith("backbone.") == network}

    same = [candidate for candidate in candidates if part(candidate, network=True) == part(row, network=True)]
    differing = [len(part(candidate, network=False) ^ part(row, network=False)) for candidate in same]
    return same[int(np.argmin(differing))] if same and differing.count(min(differing)) == 1 else None


def _note_difference(row: Row, baseline: Row, notes: list[str]) -> None:
    differing = _differing_settings(row, baseline)
    if differing:
        more = [f"{len(differing) - _NAMED} more settings"] if len(differing) > _NAMED + 1 else differing[_NAMED:]
        named = ", ".join([*differing[:_NAMED], *more])
        notes.append(f"{row.label} and its baseline {baseline.label} also differ in {named}.")
    if len(row.runs) != len(baseline.runs):
        notes.append(f"{row.label} has {_count(row)}, its baseline {baseline.label} {_count(baseline)}.")


def _differing_settings(row: Row, baseline: Row) -> list[str]:
    """Return the settings outside the method in which two rows differ, the important ones first. Absent counts as null."""
    names = {name for name in {*row.settings, *baseline.settings} if not name.startswith("method.")}
    return sorted(
        (name for name in names if row.settings.get(name) != baseline.settings.get(name)),
        key=lambda name: (_WEIGHTY.index(name) if name in _WEIGHTY else len(_WEIGHTY), name.count("."), name),
    )


def _too_few_draws(tests: Sequence[pd.DataFrame], metrics: Sequence[str], protocol: Protocol) -> list[str]:
    """Return a remark that names the metrics for which no adjusted p can be significant: least p × rows is too large."""
    lines = pd.concat(tests) if tests else pd.DataFrame(columns=["test", "metric", "least"])
    lines = lines[lines["test"] == "paired bootstrap"]
    hopeless: dict[str, list[str]] = {}
    for name in dict.fromkeys(metrics):
        each = lines.loc[lines["metric"] == name, "least"]
        least = min(1.0, each.min() * len(each)) if len(each) else 0.0
        if least >= 1 - protocol.level:
            hopeless.setdefault(f"{least:.2g}", []).append(METRICS[name])
    if not hopeless:
        return []
    limits = ", and ".join(f"below {least} for {', '.join(names)}" for least, names in hopeless.items())
    return [
        f"{protocol.replicates:,} draws and {len(tests)} rows leave no adjusted p of the paired bootstrap {limits}: compare "
        "fewer rows, or score the runs with more evaluation.bootstrap_replicates."
    ]


def _count(row: Row) -> str:
    return f"{len(row.runs)} run{'s' if len(row.runs) > 1 else ''}"


def _protocol(rows: Sequence[Row]) -> Protocol:
    runs = [run for row in rows for run in row.runs]
    for name in ("calibration_bins", "interval"):
        values = {run.config["evaluation"][name]: run.folder.name for run in runs}
        if len(values) > 1:
            listed = " and ".join(f"{value} in {folder}" for value, folder in sorted(values.items())[:2])
            raise UserError(
                f"the runs cannot be compared because evaluation.{name} is {listed}; compare runs with the same value"
            )
    return Protocol(
        calibration_bins=int(runs[0].config["evaluation"]["calibration_bins"]),
        replicates=max(int(run.config["evaluation"]["bootstrap_replicates"]) for run in runs),
        level=float(runs[0].config["evaluation"]["interval"]),
        seed=min(run.seed for run in runs),
    )


def _resampled(row: Row, protocol: Protocol) -> Resampled:
    return resample(
        [run.test for run in row.runs],
        row.classes,
        replicates=protocol.replicates,
        seed=protocol.seed,
        calibration_bins=protocol.calibration_bins,
    )


def _tests(row: Row, baseline: Row, runs: Resampled, protocol: Protocol) -> pd.DataFrame:
    """Return a line for each test; ``runs`` are the row's, then its baseline's."""
    tables, baseline_tables = ([run.test for run in either.runs] for either in (row, baseline))
    places, baseline_places = ([run.place for run in either.runs] for either in (row, baseline))
    differences = paired_differences(runs, len(tables), protocol.level)
    trained = difference_over_trainings(runs, places, baseline_places, protocol.level)
    lines: list[dict[str, object]] = [
        {
            "test": "paired bootstrap",
            "metric": name,
            "difference": result.value,
            "low": result.low,
            "high": result.high,
            "p": result.p,
            "least": result.least,
            **({f"trained_{part}": getattr(trained[name], part) for part in TRAINED} if name in trained else {}),
        }
        for name, result in differences.items()
        if name in METRICS
    ]
    areas = delong(tables, baseline_tables, row.classes, level=protocol.level)
    lines.append(
        {
            "test": "DeLong",
            "metric": "auroc_macro",
            "difference": areas.value,
            "low": areas.low,
            "high": areas.high,
            "p": areas.p,
        }
    )
    discordance = mcnemar(tables, baseline_tables, row.classes)
    lines.append(
        {"test": "McNemar", "metric": "accuracy", "statistic": discordance.statistic, "p": discordance.p}
        | {"difference": differences["accuracy"].value}
    )
    return pd.DataFrame([{"row": row.label, "baseline": baseline.label, **line} for line in lines])


def _adjusted(tests: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return all tests with Holm's adjustment over the rows, separately for each test and metric."""
    columns = ["row", "baseline", "test", "metric", "difference", "low", "high", "statistic", "p", "p_holm"]
    columns += [*(f"trained_{part}" for part in TRAINED), "trained_p_holm"]
    if not tests:
        return pd.DataFrame(columns=columns)
    table = pd.concat(tests, ignore_index=True).reindex(columns=columns)
    for p in ("p", "trained_p"):
        table[f"{p}_holm"] = np.nan
        for _, index in table.groupby(["test", "metric"]).groups.items():
            table.loc[index, f"{p}_holm"] = holm(table.loc[index, p].astype(float).tolist())
    return table


def summary(comparison: Comparison, metric: str) -> Mapping[str, pd.Series]:
    """Return by label the line of ``scores`` of a metric."""
    chosen = comparison.scores[comparison.scores["metric"] == metric]
    return {str(line["row"]): line for _, line in chosen.iterrows()}
