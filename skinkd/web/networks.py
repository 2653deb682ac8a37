"""A network that the page shows, from a run folder, a checkpoint or an exported folder."""

from typing import Any, NamedTuple

import pandas as pd

from skinkd.explanation.outputs import Output, outputs_of
from skinkd.inference.trained import open_trained
from skinkd.scoring.metrics import per_class
from skinkd.scoring.predictions import read_predictions


class Network(NamedTuple):
    """A network and what is known of it.

    Attributes:
        name: its method, backbone, image size and data.
        classes: the K class names.
        image_size: height and width of its images, px.
        output: its final classifier; images (B, 3, H, W), uint8 or float in [0, 1], to logits (B, K).
        validation: the run's predictions on its validation part; None: unknown.
        card: what is known of its test results, plain values; None: nothing.
    """

    name: dict[str, Any]
    classes: tuple[str, ...]
    image_size: int
    output: Output
    validation: pd.DataFrame | None
    card: dict[str, Any] | None


def open_for_page(given: str, *, cells: int, level: float) -> Network:
    """Open a run folder or a checkpoint.

    Args:
        given: the setting ``run``.
        cells: as in :func:`skinkd.explanation.outputs.choose_layer`.
        level: confidence level of the sensitivities.

    Raises:
        UserError: there is no such network, or its predictions are damaged.
    """
    trained = open_trained(given)
    tables = {}
    for part in ("val", "test"):
        file = trained.run.path / "predictions" / f"{part}.csv" if trained.run else None
        tables[part] = read_predictions(file)[0] if file and file.is_file() else None
    config = trained.config or {}
    name = {
        "size": trained.image_size,
        "method": config.get("method", {}).get("name", "unknown method"),
        "backbone": config.get("backbone", {}).get("name", "unknown backbone"),
        "data": config.get("data", {}).get("name", "unknown data"),
    }
    return Network(
        name=name,
        classes=trained.classes,
        image_size=trained.image_size,
        output=outputs_of(trained.network, image_size=trained.image_size, cells=cells)[0],
        validation=tables["val"],
        card=None if tables["test"] is None else test_results(tables["test"], trained.classes, level=level),
    )


def test_results(table: pd.DataFrame, classes: tuple[str, ...], *, level: float) -> dict[str, Any]:
    """Return what the page says of a network's test predictions.

    Args:
        table: the predictions, as of :mod:`skinkd.scoring.predictions`.
        classes: the K class names.
        level: confidence level of the sensitivities.

    Returns:
        ``images`` of the part, ``level``, and ``classes``: for each the images, lesions, sensitivity with ``low`` and ``high``,
        the images that were ``predicted`` to be of the class, and the ``precision``: the share of them that are. A share of
        no image is None.
    """
    predicted = table["prediction"].value_counts()
    found = {}
    for row in per_class(table, classes, level=level).itertuples():
        bounds = {"low": row.sensitivity_low, "high": row.sensitivity_high}
        shares = {"sensitivity": row.sensitivity, **bounds, "precision": row.precision}
        found[row[1]] = {
            "images": int(row.n),
            "lesions": int(row.lesions),
            "predicted": int(predicted.get(row[1], 0)),
            **{name: float(share) if share == share else None for name, share in shares.items()},
        }
    return {"images": len(table), "level": level, "classes": found}
