"""What an export holds of the run's validation part: a temperature, and conformal sets of each class."""

from typing import Any

from skinkd.inference.trained import Trained
from skinkd.scoring.conformal import as_plain, fit_conformal
from skinkd.scoring.predictions import read_predictions
from skinkd.scoring.temperature import fit_temperature


def fitted_on_validation(trained: Trained, *, level: float) -> dict[str, Any]:
    """Return ``temperature`` and ``conformal`` for export.json; both are None if the run has no validation predictions.

    Args:
        trained: a run folder, opened.
        level: the share of images whose conformal set is to hold the true class.

    Raises:
        UserError: the level is not between 0 and 1, or the run's predictions/val.csv is damaged.
    """
    assert trained.run is not None
    file = trained.run.path / "predictions" / "val.csv"
    if not file.is_file():
        return {"temperature": None, "conformal": None}
    table, _ = read_predictions(file)
    return {
        "temperature": fit_temperature(table, trained.classes),
        "conformal": as_plain(fit_conformal(table, trained.classes, level=level)),
    }
