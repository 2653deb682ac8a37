"""Reads finished runs from run folders, from a folder of run folders, or from a sweep."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from skinkd.config.stored import read_stored
from skinkd.errors import UserError, nearest
from skinkd.runs.history import read_history
from skinkd.scoring.predictions import as_scores, read_predictions

_SECTIONS = ("data", "method", "evaluation", "paths")
_FACTS = ("epochs", "best_epoch", "parameters", "macs")
"""Numbers that a comparison takes from metrics.json unchanged."""
_MOST = 1.001  # largest valid probability: a softmax in half precision can exceed 1 a little


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: the run folder.
        config: the resolved configuration.
        metrics: the flat numbers of metrics.json.
        classes: class names, in the order of the probability columns.
        val: prediction table of the validation part; None if the run has no such table.
        test: prediction table of the test part.
        history: one row for each epoch.
    """

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    classes: tuple[str, ...]
    val: pd.DataFrame | None
    test: pd.DataFrame
    history: pd.DataFrame

    @property
    def seed(self) -> int:
        """The seed of the initial weights, the order and the augmentation."""
        return int(self.config["seed"])

    @property
    def fold(self) -> int | None:
        """The fold that is the test part; None without folds."""
        fold = self.config["data"]["fold"]
        return None if fold is None else int(fold)

    @property
    def place(self) -> tuple[int, int]:
        """Fold (−1: none) and seed, which tell the runs of a row apart and order them."""
        return -1 if self.fold is None else self.fold, self.seed

    @property
    def method(self) -> str:
        """The name of the method."""
        return str(self.config["method"]["name"])


@dataclass(frozen=True)
class Skipped:
    """A folder that is left out, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """The runs that the arguments of a comparison lead to, and the folders that are left out."""

    runs: tuple[Run, ...]
    skipped: tuple[Skipped, ...]


def read_runs(places: Sequence[Path], *, output_dir: Path) -> Found:
    """Read every run in ``places``, each once, in order of folder name.

    A place is a run folder, a sweep's folder or its name in ``<output_dir>/sweeps``, or a folder that holds run folders.
    Runs without test results are left out. So are teachers, unless they are jobs of a sweep or their folders are named.

    Raises:
        UserError: a place does not exist or holds no run, or none of the runs has test results.
    """
    named: dict[Path, bool] = {}
    for place in places:
        for folder, explicit in _folders(place, output_dir):
            named[folder] = named.get(folder, False) or explicit
    runs: list[Run] = []
    skipped: list[Skipped] = []
    for folder in sorted(named, key=lambda path: (path.name, str(path))):
        result = _read(folder, explicit=named[folder])
        if isinstance(result, Run):
            runs.append(result)
        else:
            skipped.append(result)
    if not runs:
        reasons = "; ".join(f"{left_out.folder.name}: {left_out.reason}" for left_out in skipped[:3])
        raise UserError(
            f"none of the {len(skipped)} runs in {', '.join(map(str, places))} can be compared ({reasons}); finish them "
            "with the commands that began them, or name other folders"
        )
    return Found(tuple(runs), tuple(skipped))


def find_place(place: Path, output_dir: Path) -> Path:
    """Return the folder ``place``, or the sweep of that name in ``<output_dir>/sweeps``.

    Raises:
        UserError: neither exists.
    """
    sweeps = output_dir / "sweeps"
    if place.is_dir():
        return place
    if (sweeps / place).is_dir():
        return sweeps / place
    names = [path.name for path in sweeps.iterdir() if path.is_dir()] if sweeps.is_dir() else []
    hint = nearest(str(place), names) if names else f"; give a folder that exists, there are no sweeps in {sweeps}"
    raise UserError(f"{place} is neither a folder nor a sweep{hint}")


def _folders(place: Path, output_dir: Path) -> list[tuple[Path, bool]]:
    """Return the run folders of a place, and whether each was named (itself or as job of a sweep), not just found."""
    place = find_place(place, output_dir)
    if (place / "sweep.json").is_file():
        return [(folder.resolve(), True) for folder in _jobs(place)]
    if (place / "config.yaml").is_file():
        return [(place.resolve(), True)]
    children = sorted(path.parent for path in place.glob("*/config.yaml"))
    if not children:
        raise UserError(
            f"{place} is neither a run folder nor a sweep, and holds no run folders; give a run's or a sweep's folder"
        )
    return [(child.resolve(), False) for child in children]


def _jobs(sweep: Path) -> list[Path]:
    path = sweep / "sweep.json"
    try:
        jobs = json.loads(path.read_text(encoding="utf-8"))["jobs"]
        # run folders in sweep.json are relative to output_dir, and the sweep is <output_dir>/sweeps/<group>
        return [sweep.resolve().parent.parent / job["folder"] for job in jobs]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as a sweep ({error}); run the sweep again, which skips the finished runs"
        ) from None


def _read(folder: Path, *, explicit: bool) -> Run | Skipped:
    if not (folder / "config.yaml").is_file():
        return Skipped(folder, "not begun")
    try:
        config = _mapping(read_stored(folder / "config.yaml"), "config.yaml")
        if "run" in config:
            return Skipped(folder, "an evaluation of a run on other data")
        if config["job_type"] == "teacher" and not explicit:
            return Skipped(folder, "a teacher; name its folder to compare it too")
        if not (folder / "metrics.json").is_file():
            return Skipped(folder, "not finished")
        metrics = _mapping(json.loads((folder / "metrics.json").read_text(encoding="utf-8")), "metrics.json")
        if "test/accuracy" not in metrics:
            return Skipped(folder, "scored on validation only")
        for name in _SECTIONS:
            _mapping(config[name], f"{name} of config.yaml")
        for name in _FACTS:
            _check_number(metrics.get(name, 0), name)
        test, classes = _read_table(folder / "predictions" / "test.csv")
        val_path = folder / "predictions" / "val.csv"
        val, val_classes = _read_table(val_path) if val_path.exists() else (None, classes)
        if val_classes != classes:
            raise ValueError(f"val.csv has the classes {', '.join(val_classes)}, test.csv {', '.join(classes)}")
        stored = read_history(folder)
        if not stored.rows:
            raise ValueError("history.csv is missing or has no epoch")
        history = pd.DataFrame(stored.rows, columns=list(stored.columns))
        run = Run(folder, config, metrics, tuple(classes), val, test, history)
        run.place, run.method, config["protocol"], config["data"]["name"]
        for name in ("calibration_bins", "bootstrap_replicates", "interval"):
            float(config["evaluation"][name])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, UserError) as error:
        return Skipped(folder, f"damaged: {' '.join(str(error).split())[:120]}")
    return run


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} does not hold a mapping of names to values")
    return value


def _check_number(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} in metrics.json is {value!r}, which is not a number")


def _read_table(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read a prediction table, and check that every label, prediction and probability can be scored."""
    table, classes = read_predictions(path)
    try:
        probability = as_scores(table, classes).probability
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    broken = ~((probability >= 0) & (probability <= _MOST)).all(axis=1)  # NaN fails both comparisons
    if broken.any():
        # as_scores sorts the images by name
        image = np.sort(table["image_id"].to_numpy(dtype=str))[int(broken.argmax())]
        raise ValueError(f"{path.name} has a probability of image {image} that is not between 0 and 1")
    return table, classes
