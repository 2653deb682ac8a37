"""The files of a run folder that a model card reads."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from skinkd.errors import UserError
from skinkd.inference.trained import Trained
from skinkd.scoring.predictions import read_predictions


class StoredRun(NamedTuple):
    """What a run folder has; whatever it lacks is empty or None.

    Attributes:
        metrics: metrics.json.
        audit: splits_report.json.
        val: prediction table of the validation part.
        test: prediction table of the test part.
        environment: the facts of environment.txt by name, the versions of packages too.
    """

    metrics: dict[str, Any]
    audit: dict[str, Any]
    val: pd.DataFrame | None
    test: pd.DataFrame | None
    environment: dict[str, str]


def read_run(trained: Trained) -> StoredRun:
    """Read the files of the run folder; all are absent for a checkpoint outside a run folder.

    The scores of an unfinished run do not count: they may be those of an earlier checkpoint.

    Raises:
        UserError: a file is damaged, or its predictions are for other classes than the network's.
    """
    if trained.run is None:
        return StoredRun({}, {}, None, None, {})
    folder = trained.run.path
    metrics = _json(folder / "metrics.json")
    val, test = (_predictions(folder / "predictions" / f"{part}.csv", trained) for part in ("val", "test"))
    return StoredRun(
        metrics,
        _json(folder / "splits_report.json"),
        val if "val/n" in metrics else None,
        test if "test/n" in metrics else None,
        _environment(folder / "environment.txt"),
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it, or train again with force=true") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object; restore it, or train again with force=true")
    return found


def _predictions(path: Path, trained: Trained) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    table, classes = read_predictions(path)
    if tuple(classes) != trained.classes:
        raise UserError(
            f"{path} has the classes {', '.join(classes)}, and the network has {', '.join(trained.classes)}; restore the "
            "file, or train again with force=true"
        )
    return table


def _environment(path: Path) -> dict[str, str]:
    """Return the lines "name value" of the first block and "package==version" of the second; of several GPUs, the first."""
    if not path.is_file():
        return {}
    machine, _, packages = path.read_text(encoding="utf-8", errors="replace").partition("\n\n")
    told: dict[str, str] = {}
    for line in machine.splitlines():
        name, _, value = line.partition(" ")
        if name != "torch":  # its version is among the packages
            told.setdefault(name, value)  # "processor cores" comes after "processor"
    for line in packages.splitlines():
        name, _, value = line.partition("==")
        told.setdefault(name, value)
    return told
