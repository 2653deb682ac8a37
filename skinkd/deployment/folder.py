"""Writes an export: a folder with a trained network that runs without us, complete or not at all."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from skinkd.deployment.before_after import ENGINES
from skinkd.deployment.contents import write_contents
from skinkd.deployment.images import run_images
from skinkd.errors import UserError, check_choice, check_range, check_whole
from skinkd.inference.trained import Trained, open_trained
from skinkd.runs.console import say
from skinkd.runs.tracking import add_to_run

FEWEST_CALIBRATION_IMAGES = 200
STALE_SECONDS = 24 * 3600


def export_run(settings: dict[str, Any]) -> bool:
    """Write the export of a run, and print what quantization changed.

    Args:
        settings: those of conf/export.yaml, resolved.

    Returns:
        Whether int8 keeps within the limits, or the loss is accepted.

    Raises:
        UserError: a setting is wrong; the run is not finished, or its data is gone; the folder is there already; or the
            float32 file differs from the run's network.
    """
    _check(settings)
    trained = open_trained(settings["run"])
    if trained.run is None or trained.config is None or not (trained.run.path / "predictions" / "test.csv").is_file():
        raise UserError(
            f"run={settings['run']} is no finished run folder with predictions/test.csv; an export is calibrated and scored "
            "with the images of the run, so finish the run first, with evaluation.test=true"
        )
    out = Path(settings["out"] or trained.run.inside("export")).expanduser()
    if out.exists() and not (settings["force"] and (out / "export.json").is_file()):
        raise UserError(
            f"{out} is there already; give another out" + (", or force=true" if (out / "export.json").is_file() else "")
        )
    exits = trained_exits(trained, settings)
    rows = run_images(trained, settings["paths"])
    with _complete_or_nothing(out) as folder:
        accepted = write_contents(trained, rows, folder, settings, exits=exits)
    _log(trained, out)
    say(f"\nexport:\n{out}")
    return accepted


def _log(trained: Trained, out: Path) -> None:
    """Add the table to the run's W&B run, if it has one, as ``export/<name>_<engine>``."""
    assert trained.run is not None and trained.config is not None
    rows = json.loads((out / "before_after.json").read_text("utf-8"))["rows"]
    numbers = {
        f"export/{row['name']}_{engine}": row[engine] for row in rows for engine in ENGINES if row[engine] is not None
    }
    add_to_run(trained.config["logger"], trained.run, numbers)


def _check(settings: dict[str, Any]) -> None:
    check_choice("input_type", settings["input_type"], ("uint8", "float"))
    for name in settings["formats"]:
        check_choice("formats", name, ("onnx", "torch"))
    if "onnx" not in settings["formats"]:
        raise UserError(f"formats={settings['formats']} lacks onnx, which is always written; give [onnx,torch]")
    check_whole("int8.calibration_images", settings["int8"]["calibration_images"], FEWEST_CALIBRATION_IMAGES)
    check_range("limits.agreement", settings["limits"]["agreement"], 0, 1)
    check_range("early_exit_threshold", settings["early_exit_threshold"], 0)
    check_whole("latency.threads", settings["latency"]["threads"], 1)
    check_whole("latency.rounds", settings["latency"]["rounds"], 3)
    for size in settings["latency"]["batch_sizes"]:
        check_whole("latency.batch_sizes", size, 1)


def trained_exits(trained: Trained, settings: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the exits to export, none if not asked.

    Raises:
        UserError: the network has no exits, or the run did not train them.
    """
    if not settings["exits"]:
        return ()
    assert trained.run is not None
    scored = trained.run.metrics()
    names = tuple(name for name in getattr(trained.network, "exit_names", ()) if f"test/{name}/accuracy" in scored)
    if not names:
        raise UserError(f"exits=true: the network of run={settings['run']} has no trained exits; leave exits out")
    return names


@contextmanager
def _complete_or_nothing(out: Path) -> Iterator[Path]:
    """Yield a new folder next to ``out``, which takes its place at the end; after an error ``out`` is as before."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{out.name}.*.unfinished"):  # of killed processes
        if time.time() - left.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    folder = out.with_name(f".{out.name}.{os.getpid()}.unfinished")
    replaced = out.with_name(f".{out.name}.{os.getpid()}.replaced.unfinished")
    folder.mkdir()
    try:
        yield folder
        if out.exists():
            out.rename(replaced)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
