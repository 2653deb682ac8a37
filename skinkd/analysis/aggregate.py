"""Summarises the runs of a row: means, spreads and intervals over seeds and folds."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from skinkd.analysis.calibration import reliability
from skinkd.analysis.rows import Row
from skinkd.analysis.runs import Run
from skinkd.analysis.trainings import mean_over_trainings
from skinkd.scoring.bootstrap import Resampled, intervals_of_mean
from skinkd.scoring.metrics import confusion_matrix, evaluate, per_class, wilson_interval
from skinkd.scoring.predictions import Floats
from skinkd.scoring.temperature import apply_temperature, fit_temperature

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "precision_macro": "precision (macro)",
    "recall_macro": "recall (macro)",
    "f1_macro": "F1 (macro)",
    "precision_weighted": "precision (weighted)",
    "recall_weighted": "recall (weighted)",
    "f1_weighted": "F1 (weighted)",
    "auroc_macro": "AUROC (macro)",
    "average_precision_macro": "average precision (macro)",
    "ece": "ECE",
    "brier": "Brier score",
    "loss": "NLL",
}
"""Every metric that is a single number for a test set, and its name in print."""
CURVES = {"val/accuracy": "accuracy", "val/auroc_macro": "AUROC (macro)", "val/loss": "NLL"}
_CLASS_METRICS = ("sensitivity", "specificity", "precision", "f1", "auroc")


@dataclass(frozen=True)
class Protocol:
    """The settings of evaluation that all runs of a comparison share, read from their configurations."""

    calibration_bins: int
    replicates: int
    level: float
    seed: int


def values_of(run: Run, protocol: Protocol) -> dict[str, float]:
    """Return every metric of a run's test predictions by name, NaN if undefined."""
    scores = evaluate(run.test, run.classes, calibration_bins=protocol.calibration_bins)
    return {name: scores.get(name, float("nan")) for name in METRICS}


def run_lines(row: Row, protocol: Protocol) -> pd.DataFrame:
    """Return a line for each run: its folder, seed, fold, epochs and metrics."""
    lines = [
        {
            "row": row.label,
            "method": row.method,
            "folder": run.folder.name,
            "seed": run.seed,
            "fold": run.fold,
            "epochs": run.metrics.get("epochs"),
            "best_epoch": run.metrics.get("best_epoch"),
            **values_of(run, protocol),
        }
        for run in row.runs
    ]
    return pd.DataFrame(lines)


def score_lines(row: Row, runs: Resampled, protocol: Protocol) -> pd.DataFrame:
    """Return a line for each metric: mean and spread over the runs, and intervals of the mean over lesions and trainings."""
    values = pd.DataFrame([values_of(run, protocol) for run in row.runs])
    intervals = intervals_of_mean(runs, protocol.level)
    trained = mean_over_trainings(runs, [run.place for run in row.runs], protocol.level)
    nothing = (float("nan"), float("nan"))
    return pd.DataFrame(
        [
            {
                "row": row.label,
                "metric": name,
                "mean": values[name].mean(),
                "sd": values[name].std(ddof=1),
                "low": intervals.get(name, nothing)[0],
                "high": intervals.get(name, nothing)[1],
                "trained_low": trained[name].low if name in trained else float("nan"),
                "trained_high": trained[name].high if name in trained else float("nan"),
            }
            for name in METRICS
        ]
    )


def cost_line(row: Row) -> dict[str, object]:
    """Return parameters and multiply-adds of the deployed network, and seconds of training, as means over the runs."""

    def mean(name: str) -> float:
        return float(np.mean([float(run.metrics.get(name, np.nan)) for run in row.runs]))

    seconds = [run.history["seconds"].sum() if "seconds" in run.history else np.nan for run in row.runs]
    return {
        "row": row.label,
        "method": row.method,
        "runs": len(row.runs),
        "parameters": mean("parameters"),
        "macs": mean("macs"),
        "seconds": float(np.mean(seconds)),
    }


def _mean(values: Sequence[Floats]) -> Floats:
    """Return the mean over runs without NaN; NaN where all runs are NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # from numpy, for the mean of only NaN
        return np.nanmean(np.stack(values), axis=0)


def class_lines(row: Row, protocol: Protocol) -> pd.DataFrame:
    """Return a line for each class: means over runs. Images and lesions add up over folds, not over runs of one test set."""
    tables = [per_class(run.test, run.classes, level=protocol.level) for run in row.runs]
    table_of_fold = {run.place[0]: table for run, table in zip(row.runs, tables, strict=True)}
    result = pd.DataFrame({"row": row.label, "class": list(row.classes)})
    for name in ("n", "lesions"):
        result[name] = np.sum([table[name].to_numpy() for table in table_of_fold.values()], axis=0)
    for name in _CLASS_METRICS:
        values = [table[name].to_numpy(dtype=np.float64) for table in tables]
        result[name] = _mean(values)
        result[f"{name}_sd"] = np.std(values, axis=0, ddof=1) if len(values) > 1 else np.nan
    low, high = wilson_interval(result["sensitivity"].to_numpy(), result["lesions"].to_numpy(), protocol.level)
    return result.assign(sensitivity_low=low, sensitivity_high=high)


def mean_confusion(row: Row) -> Floats:
    """Return the mean over runs of the share of each true class predicted as each class, (K, K); an absent class is NaN."""
    shares = []
    for run in row.runs:
        counts = confusion_matrix(run.test, run.classes).astype(np.float64)
        labels = counts.sum(axis=1, keepdims=True)
        shares.append(np.divide(counts, labels, out=np.full_like(counts, np.nan), where=labels > 0))
    return _mean(shares)


def scaled_tables(row: Row) -> dict[str, list[pd.DataFrame]]:
    """Return test tables before and after temperature scaling, fitted on each run's validation part; {} if one is missing."""
    if any(run.val is None for run in row.runs):
        return {}
    after = [apply_temperature(run.test, run.classes, _temperature(run)) for run in row.runs]
    return {"before": [run.test for run in row.runs], "after": after}


def _temperature(run: Run) -> float:
    assert run.val is not None
    return fit_temperature(run.val, run.classes)


def calibration_line(row: Row, protocol: Protocol) -> dict[str, object]:
    """Return the temperature, and calibration before and after scaling by it: mean and spread over the runs."""
    result: dict[str, object] = {"row": row.label}
    scaled = scaled_tables(row)
    if not scaled:
        return result
    temperatures = pd.Series([_temperature(run) for run in row.runs])
    result |= {"temperature": temperatures.mean(), "temperature_sd": temperatures.std(ddof=1)}
    for part, tables in scaled.items():
        values = pd.DataFrame([evaluate(t, row.classes, calibration_bins=protocol.calibration_bins) for t in tables])
        for name in ("ece", "loss", "brier"):
            result |= {f"{name}_{part}": values[name].mean(), f"{name}_{part}_sd": values[name].std(ddof=1)}
    return result


def pooled_reliability(tables: Sequence[pd.DataFrame], row: Row, protocol: Protocol) -> pd.DataFrame:
    """Return the bins of all runs together: means weighted by each run's number of images in the bin."""
    parts = [reliability(table, row.classes, calibration_bins=protocol.calibration_bins) for table in tables]
    n = np.sum([part["n"].to_numpy() for part in parts], axis=0)
    result = parts[0][["low", "high"]].copy()
    for name in ("confidence", "accuracy"):
        total = np.sum([np.nan_to_num(part[name].to_numpy()) * part["n"].to_numpy() for part in parts], axis=0)
        result[name] = np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)
    return result.assign(n=n)


def curve_lines(row: Row) -> pd.DataFrame:
    """Return validation metrics of each epoch: mean, least and greatest over the runs that have the epoch."""
    parts = []
    for metric in CURVES:
        present = [run.history[["epoch", metric]] for run in row.runs if metric in run.history]
        if present:
            lines = pd.concat(present).dropna().groupby("epoch")[metric].agg(["mean", "min", "max", "count"])
            lines = lines.rename(columns={"min": "low", "max": "high", "count": "runs"}).reset_index()
            parts.append(lines.assign(row=row.label, metric=metric))
    columns = ["row", "metric", "epoch", "mean", "low", "high", "runs"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
