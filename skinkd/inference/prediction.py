"""Predicts the classes of a user's images: a table with a row for each image, or the likeliest classes of a single one."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from skinkd.config.ranges import check_value
from skinkd.errors import UserError, check_choice, check_whole
from skinkd.inference.exported import Exported
from skinkd.inference.fitted import Fitted, fit_on_validation
from skinkd.inference.images import ImageFiles, load_images
from skinkd.inference.inputs import find_inputs
from skinkd.inference.predictor import TTA, open_predictor, predicted
from skinkd.inference.trained import Trained
from skinkd.inference.validated import report_on_test
from skinkd.runs.cells import harmless_table
from skinkd.runs.console import say
from skinkd.runs.files import written_atomically
from skinkd.runs.tables import plain_table
from skinkd.scoring.conformal import prediction_sets
from skinkd.scoring.predictions import probability_columns
from skinkd.scoring.temperature import scaled

_ENDINGS = (".csv", ".jsonl")
_BATCH_OF_OTHERS = 128  # images, for a network without a run's configuration
SET_SEPARATOR = ";"
"""Between the class names of a set in a CSV; in JSON lines a set is a list."""


def predict(config: dict[str, Any]) -> None:
    """Predict the images of ``input``, or, without ``input``, show what is fitted on validation on the run's test part.

    Args:
        config: the settings of ``conf/predict.yaml``.

    Raises:
        UserError: a setting is wrong, the run cannot be opened, or the only image cannot be read.
    """
    _check(config)
    paths, where = ([], "") if config["input"] is None else find_inputs(str(config["input"]))
    if len(paths) > 1 and config["out"] is None:
        raise UserError(
            f"{where} has {len(paths)} images, and a table of them needs a file; give out=<file>.csv or .jsonl"
        )
    network = open_predictor(str(config["run"]), file=config["file"])
    fitted = fit_on_validation(
        network, calibrate=config["calibrate"], conformal=config["conformal"], coverage=config["coverage"]
    )
    for remark in fitted.remarks:
        say(remark)
    if not paths:
        report_on_test(network, fitted)
        return
    if fitted.threshold is not None:
        say("what abstention does to each class of the run's test part: the same command without input and out")
    probability, errors = _probabilities(network, paths, config)
    table = prediction_rows(paths, probability, errors, network.classes, fitted)
    if config["out"] is not None:
        _write(table, Path(config["out"]).expanduser())
        say(f"{len(table)} images, {len(errors)} of them unreadable: {config['out']}")
    if len(paths) == 1:
        _print_single(table.iloc[0], network.classes, top=config["top"])


def _check(config: dict[str, Any]) -> None:
    check_choice("tta", config["tta"], TTA)
    for name in ("max_pixels", "top", *(["batch_size"] if config["batch_size"] is not None else [])):
        check_whole(name, config[name], 1)
    check_value("num_workers", config["num_workers"])
    if config["input"] is None:
        if not (config["calibrate"] or config["conformal"] is not None or config["coverage"] is not None):
            raise UserError(
                "input has no value; give input=<image, folder, pattern or CSV>, or coverage=0.8 for a report"
            )
        if config["out"] is not None:
            raise UserError(f"out={config['out']} is for a table of images; give input=<image, folder, pattern or CSV>")
    if config["out"] is not None:
        out = Path(config["out"]).expanduser()
        if out.suffix.lower() not in _ENDINGS:
            raise UserError(f"out={config['out']} must end in {' or '.join(_ENDINGS)}")
        if out.exists() and not config["force"]:
            raise UserError(f"out={config['out']} exists already; give another, or force=true to replace it")


def _probabilities(
    network: Trained | Exported, paths: Sequence[str], config: dict[str, Any]
) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Return the probabilities of every image, (N, K), NaN for those that cannot be read, and the errors of these by number."""
    size = config["batch_size"]
    if isinstance(network, Trained):
        network.network.to("cuda" if torch.cuda.is_available() else "cpu")
        if network.config is not None:  # rounding follows the order in memory and the size of a batch
            size = size or network.config["data"]["eval_batch_size"]
            if network.config["channels_last"]:
                network.network.to(memory_format=torch.channels_last)
    files = ImageFiles(paths, image_size=network.image_size, max_pixels=config["max_pixels"])
    errors: dict[int, str] = {}
    probability = np.full((len(paths), len(network.classes)), np.nan)
    for loaded in load_images(
        files, batch_size=size or _BATCH_OF_OTHERS, num_workers=min(config["num_workers"], len(paths) - 1)
    ):
        errors |= loaded.errors
        if loaded.place:
            probability[loaded.place] = predicted(network, loaded.images, tta=config["tta"])
    return probability, errors


def prediction_rows(
    paths: Sequence[str],
    probability: NDArray[np.float64],
    errors: dict[int, str],
    classes: Sequence[str],
    fitted: Fitted,
) -> pd.DataFrame:
    """Return the table of predictions.

    Columns: path; prediction (the likeliest class); p_<class> for each class; where asked set (a list of classes), set_size and
    abstain; error. Of an image that was not read all but path and error are missing.

    Args:
        paths: of the N images.
        probability: of the network itself, (N, K), NaN for an image that was not read.
        errors: one sentence for each such image, by its number.
        classes: the K class names.
        fitted: what was asked for.
    """
    read = np.array([place not in errors for place in range(len(paths))])

    def known(values: Iterable[Any]) -> list[Any]:
        return [value if was_read else None for value, was_read in zip(values, read, strict=True)]

    # a path that is no UTF-8 is shown with escapes, because no text file can hold it
    columns: dict[str, Any] = {
        "path": [path.encode("utf-8", "backslashreplace").decode() for path in paths],
        "prediction": known(classes[k] for k in probability.argmax(axis=1)),
    }
    shown = probability if fitted.temperature is None else scaled(probability, fitted.temperature)
    columns |= dict(zip(probability_columns(classes), shown.T, strict=True))
    if fitted.conformal is not None:
        sets = prediction_sets(probability, fitted.conformal)
        columns["set"] = known([name for name, held in zip(classes, row, strict=True) if held] for row in sets)
        columns["set_size"] = pd.array(known(sets.sum(axis=1).tolist()), "Int64")
    if fitted.threshold is not None:
        columns["abstain"] = pd.array(known((probability.max(axis=1) < fitted.threshold).tolist()), "boolean")
    columns["error"] = [errors.get(place) for place in range(len(paths))]
    return pd.DataFrame(columns)


def _write(table: pd.DataFrame, out: Path) -> None:
    try:
        with written_atomically(out) as temporary:
            if out.suffix.lower() == ".csv":
                if "set" in table:
                    table = table.assign(set=table["set"].map(SET_SEPARATOR.join, na_action="ignore"))
                harmless_table(table).to_csv(temporary, index=False)
            else:
                temporary.write_text("".join(f"{_json_line(row)}\n" for row in table.to_dict("records")), "utf-8")
    except OSError as error:
        raise UserError(f"out={out} cannot be written ({error.strerror}); give another") from None


def _json_line(row: dict[Any, Any]) -> str:
    missing = {
        name: None for name, value in row.items() if value is pd.NA or (isinstance(value, float) and math.isnan(value))
    }
    return json.dumps(row | missing, ensure_ascii=False, allow_nan=False)


def _print_single(row: pd.Series, classes: Sequence[str], *, top: int) -> None:
    """Print the likeliest classes of one image.

    Raises:
        UserError: the image was not read.
    """
    if row["error"] is not None:
        raise UserError(row["error"])
    console = Console(highlight=False)
    console.print(Text(row["path"]), soft_wrap=True)
    shown = plain_table("class", "probability")
    for name in sorted(classes, key=lambda name: -row[f"p_{name}"])[:top]:
        shown.add_row(Text(name), f"{row[f'p_{name}']:.4f}")
    console.print(shown)
    if "set" in row:
        console.print(Text(f"set: {', '.join(row['set']) or 'empty, no class suits the image'}"))
    if row.get("abstain"):
        console.print(Text("the network abstains: its confidence is below the threshold"))
