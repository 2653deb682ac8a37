"""What quantization changes: cost and scores of PyTorch, the float32 file and the int8 file on the same test images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from skinkd.analysis.statistics import paired_bootstrap
from skinkd.deployment.engines import FP32, INT8, TORCH
from skinkd.scoring.metrics import evaluate

ENGINES = (TORCH, FP32, INT8)
SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc_macro": "AUROC (macro)",
    "ece": "calibration error",
}


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        name: of the quantity, such as ``accuracy``, ``sensitivity/mel`` or ``latency_1_ms``.
        label: its name in print.
        values: by engine; an engine for which it means nothing is left out.
        n: test images that a score rests on; None for a cost.
        difference: int8 minus float32, of the same images; None for a cost.
        low: lower bound of the difference, by resampling lesions.
        high: upper bound.
    """

    name: str
    label: str
    values: Mapping[str, float]
    n: int | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None


def score_lines(
    tables: Mapping[str, pd.DataFrame], classes: Sequence[str], *, evaluation: Mapping[str, Any], seed: int
) -> list[Line]:
    """Return the lines of all scores: over all classes, and the sensitivity of each class with its images.

    Args:
        tables: prediction table of each engine, of the same images.
        classes: the K class names.
        evaluation: the run's settings ``calibration_bins``, ``bootstrap_replicates`` and ``interval``.
        seed: of the draws.
    """

    def differences(rows: pd.Series | slice) -> Any:
        return paired_bootstrap(
            [tables[INT8][rows]],
            [tables[FP32][rows]],
            classes,
            replicates=evaluation["bootstrap_replicates"],
            seed=seed,
            level=evaluation["interval"],
            calibration_bins=evaluation["calibration_bins"],
        )

    scores = {
        name: evaluate(table, classes, calibration_bins=evaluation["calibration_bins"])
        for name, table in tables.items()
    }
    n, overall = len(tables[FP32]), differences(slice(None))
    lines = []
    for name, label in SCORES.items():
        if name in overall:
            found = overall[name]
            values = {engine: scores[engine][name] for engine in tables}
            lines.append(Line(name, label, values, n, found.value, found.low, found.high))
    for class_name in classes:
        of_class = tables[FP32]["label"] == class_name
        if of_class.any():
            # among the images of a class, accuracy is the sensitivity of the class
            found = differences(of_class)["accuracy"]
            values = {engine: scores[engine][f"sensitivity/{class_name}"] for engine in tables}
            count = int(of_class.sum())
            lines.append(
                Line(f"sensitivity/{class_name}", class_name, values, count, found.value, found.low, found.high)
            )
    return lines


def agreement(tables: Mapping[str, pd.DataFrame], classes: Sequence[str]) -> dict[str, float]:
    """Return the share of images with the same prediction in float32 and int8, and the largest change of a probability."""
    columns = [f"p_{name}" for name in classes]
    first, second = tables[FP32], tables[INT8]
    change = np.abs(first[columns].to_numpy() - second[columns].to_numpy()).max()
    return {
        "same_prediction": float((first["prediction"] == second["prediction"]).mean()),
        "largest_change": float(change),
    }


def parity(reference: tuple[np.ndarray, np.ndarray], exported: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Return how far the float32 file is from PyTorch on the same images.

    Args:
        reference: PyTorch's logits and probabilities, (N, K) each.
        exported: those of the file.

    Returns:
        ``probability``: the largest difference of a probability; ``logit``: that of a logit, as a share of the largest logit;
        ``predictions``: the number of images with another prediction.
    """
    (logits, shares), (other_logits, other_shares) = reference, exported
    return {
        "probability": float(np.abs(shares - other_shares).max()),
        "logit": float(np.abs(logits - other_logits).max() / np.abs(logits).max()),
        "predictions": int((shares.argmax(axis=1) != other_shares.argmax(axis=1)).sum()),
    }


def losses(lines: Sequence[Line], agreed: Mapping[str, float], limits: Mapping[str, float]) -> list[str]:
    """Return in words which limits int8 fails; none: it may take the place of float32."""
    found = []
    if agreed["same_prediction"] < limits["agreement"]:
        found.append(
            f"int8 and float32 agree on {100 * agreed['same_prediction']:.1f} % of the test images, below "
            f"{100 * limits['agreement']:g} %"
        )
    balanced = next((line for line in lines if line.name == "balanced_accuracy"), None)
    if balanced is not None and balanced.low is not None and balanced.low < -limits["balanced_accuracy_loss"]:
        found.append(
            f"the balanced accuracy of int8 may be {-100 * balanced.low:.1f} points lower, more than "
            f"{100 * limits['balanced_accuracy_loss']:g}"
        )
    return found


def slower(lines: Sequence[Line]) -> list[str]:
    """Return in words for which batches int8 is not faster than float32 on this machine."""
    return [
        f"int8 is not faster than float32 in ONNX Runtime on this machine: {line.label}, "
        f"{line.values[INT8]:.2f} and {line.values[FP32]:.2f}"
        for line in lines
        if line.name.startswith("latency") and line.values[INT8] >= line.values[FP32]
    ]


def as_frame(lines: Sequence[Line]) -> pd.DataFrame:
    """Return the table with every digit: name, n, a column for each engine, difference, low, high."""
    return pd.DataFrame(
        [
            {"name": line.name, "n": line.n}
            | {engine: line.values.get(engine) for engine in ENGINES}
            | {"difference": line.difference, "low": line.low, "high": line.high}
            for line in lines
        ]
    ).astype({"n": "Int64"})


def card_frame(lines: Sequence[Line]) -> pd.DataFrame:
    """Return the table under the titles in which a model card shows it."""
    return pd.DataFrame(
        [
            {
                "Measure": f"Sensitivity, {line.label}" if line.name.startswith("sensitivity/") else line.label,
                "Images": line.n,
                "PyTorch": line.values.get(TORCH),
                "float32": line.values.get(FP32),
                "int8": line.values.get(INT8),
                "int8 − float32": line.difference,
                "low": line.low,
                "high": line.high,
            }
            for line in lines
        ],
        dtype=object,
    )
