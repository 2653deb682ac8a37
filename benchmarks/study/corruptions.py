"""Robustness of trained rows to the corruptions of MedMNIST-C: ``python -m benchmarks.study corruptions --folds 3 4``.

Di Salvo, Doerrich and Ledig (2024), "MedMNIST-C", arXiv:2406.17536, with their settings for skin-lesion images. It needs run
folders with their weights in ``SKINKD_OUTPUT_DIR``, the images in ``SKINKD_DATA_DIR``, ImageMagick, and
``pip install --no-deps medmnistc wand`` beside scikit-image. It writes benchmarks/study/corruptions.csv, from which the page
takes its table.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from skinkd.analysis.statistics import paired_bootstrap
from skinkd.data.decode import decode_file
from skinkd.data.transforms import eval_pipeline
from skinkd.inference.trained import open_trained
from skinkd.scoring.bootstrap import mean_intervals
from skinkd.scoring.metrics import evaluate
from skinkd.scoring.predictions import probability_columns

from .collect import Runs
from .scores import BINS, LEVEL, REPLICATES, SEED

RESULTS = Path(__file__).with_name("corruptions.csv")
SEVERITIES = (1, 3, 5)  # of the library's five
SIDE = 224  # px; the library's settings are for images of this size
BASELINE = "supervised"
METRICS = ("accuracy", "balanced_accuracy")
BATCH = 100
CLEAN = "none"
LEFT_OUT = "motion_blur"  # medmnistc 0.1.0 calls np.fromstring for it, which NumPy 2.3 no longer has


def sample(table: pd.DataFrame, images: int, seed: int) -> pd.DataFrame:
    """The first ``images`` images of a test part, lesion by lesion in random order; the last lesion may be cut."""
    lesions = np.random.default_rng(seed).permutation(table["group"].unique())
    ordered = table.set_index("group").loc[lesions].reset_index()
    return ordered.head(images)


def corrupted(images: Sequence[np.ndarray], corruption: Any, severity: int, seed: int) -> Iterator[np.ndarray]:
    """Each image with a corruption of the library; its draws are the same in every row."""
    if corruption is None:
        yield from images
        return
    random.seed(seed)  # the library draws from three generators
    np.random.seed(seed)
    corruption.rng = np.random.default_rng(seed)
    for image in images:
        yield np.asarray(corruption.apply(Image.fromarray(image), severity - 1))


def predictions_of(runs: Runs, rows: Sequence[str], fold: int, *, images: int, seed: int) -> pd.DataFrame:
    """The predictions of rows on corrupted images of a fold's test part.

    Returns:
        a prediction table with the columns ``row``, ``corruption`` and ``severity`` (0 for the images as they are).
    """
    from medmnistc.corruptions.registry import CORRUPTIONS_DS  # not among skinkd's packages

    settings = {name: corruption for name, corruption in CORRUPTIONS_DS["dermamnist"].items() if name != LEFT_OUT}
    first = runs[rows[0]][fold, 0]
    part = sample(first.test, images, seed)
    root = Path(first.config["data"]["root"])
    places = {file.stem: file for file in root.glob("HAM10000_images_part_*/*.jpg")}
    read = [decode_file(str(places[name]), max_pixels=10**8) for name in part["image_id"]]
    large = [cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) for image in read]
    networks = {row: open_trained(str(runs[row][fold, 0].folder)) for row in rows}
    size = networks[rows[0]].image_size
    prepare = eval_pipeline(image_size=size)
    tables = []
    for name, severity in [(CLEAN, 0), *((name, severity) for name in settings for severity in SEVERITIES)]:
        made = corrupted(large, settings.get(name), severity, seed)
        array = np.stack([prepare(image=np.ascontiguousarray(image))["image"].transpose(2, 0, 1) for image in made])
        for row, network in networks.items():
            batches = (array[start : start + BATCH] for start in range(0, len(array), BATCH))
            probability = np.concatenate([network.probabilities(batch) for batch in batches])
            table = part[["image_id", "group", "label"]].copy()
            table["prediction"] = np.array(first.classes)[probability.argmax(axis=1)]
            table[probability_columns(first.classes)] = probability
            tables.append(table.assign(row=row, corruption=name, severity=severity))
        print(f"fold {fold}, {name}, severity {severity}", flush=True)
    return pd.concat(tables)


def summarised(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Mean over corruptions of each row's scores at each severity, and its difference to ``supervised``.

    Args:
        predictions: of ``predictions_of``, of one or more folds.
        classes: class names.

    Returns:
        row, severity, metric, images, value, low, high, difference, difference_low, difference_high; the intervals are for
        other lesions.
    """
    rules = {"replicates": REPLICATES, "seed": SEED, "level": LEVEL, "calibration_bins": BINS}
    lines = []
    for severity, at in predictions.groupby("severity"):
        # a table for each corruption, over the folds together: no image is in two folds
        tables = {row: [table for _, table in of.groupby("corruption")] for row, of in at.groupby("row", sort=False)}
        for row, own in tables.items():
            values = pd.DataFrame([evaluate(table, classes, calibration_bins=BINS) for table in own]).mean()
            interval = mean_intervals(own, classes, **rules)
            found = paired_bootstrap(own, tables[BASELINE], classes, **rules) if row != BASELINE else {}
            for metric in METRICS:
                less = found.get(metric)
                difference = (less.value, less.low, less.high) if less else (None,) * 3
                head = (row, severity, metric, len(own[0]), len(own))
                lines.append([*head, values[metric], *interval[metric], *difference])
    columns = ["row", "severity", "metric", "images", "corruptions", "value", "low", "high"]
    return pd.DataFrame(lines, columns=[*columns, "difference", "difference_low", "difference_high"])


def corruption_table(found: pd.DataFrame) -> str:
    """The page's table: a line a row and metric, a column a severity."""
    severities = sorted(found["severity"].unique())
    lines = []
    for (row, metric), part in found.groupby(["row", "metric"], sort=False):
        cells = part.set_index("severity")
        said = []
        for severity in severities:
            one = cells.loc[severity]
            less = ""
            if pd.notna(one["difference"]):
                less = f"; {one['difference']:+.3f} ({one['difference_low']:+.3f} to {one['difference_high']:+.3f})"
            said.append(f"{one['value']:.3f}{less.replace('-', '−')}")
        lines.append([f"`{row}`", str(metric).replace("_", " "), *said])
    heads = ["as they are" if severity == 0 else f"severity {severity}" for severity in severities]
    marks = ["---", "---", *["---:"] * len(severities)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [["row", "metric", *heads], marks, *lines])
