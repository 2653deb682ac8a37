"""What is fitted on the validation part of a run: temperature, conformal sets and the threshold of abstention."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from skinkd.errors import UserError
from skinkd.inference.exported import Exported
from skinkd.inference.trained import Trained
from skinkd.scoring.conformal import Conformal, fit_conformal, least_images
from skinkd.scoring.predictions import read_predictions
from skinkd.scoring.selective import abstention_threshold
from skinkd.scoring.temperature import fit_temperature, largest_change

_NO_CHANGE = 0.005
"""A temperature that changes no probability of the validation part by more is said to change nothing."""


class Fitted(NamedTuple):
    """What was asked to be fitted, and what is to be said of it.

    Sets and threshold belong to the network's own probabilities, whether these are shown with a temperature or not.

    Attributes:
        temperature: of the probabilities; None: not asked.
        conformal: class-conditional sets; None: not asked.
        threshold: the network abstains below this confidence; None: not asked.
        remarks: a sentence for each of them.
    """

    temperature: float | None
    conformal: Conformal | None
    threshold: float | None
    remarks: tuple[str, ...]


def fit_on_validation(
    network: Trained | Exported, *, calibrate: bool, conformal: float | None, coverage: float | None
) -> Fitted:
    """Fit on the run's validation predictions, or take what an exported folder holds.

    Args:
        network: of a run, or exported.
        calibrate: whether a temperature is asked.
        conformal: level of the conformal sets; None: no sets.
        coverage: share of validation images on which the network is not to abstain; None: it never abstains.

    Raises:
        UserError: there are no validation predictions, or the exported folder lacks what is asked.
    """
    if not calibrate and conformal is None and coverage is None:
        return Fitted(None, None, None, ())
    if isinstance(network, Exported):
        return _of_export(network, calibrate=calibrate, conformal=conformal, coverage=coverage)
    table = run_predictions(network, "val")
    temperature = fit_temperature(table, network.classes) if calibrate else None
    sets = None if conformal is None else fit_conformal(table, network.classes, level=conformal)
    threshold = None if coverage is None else abstention_threshold(table, network.classes, coverage=coverage)
    remarks = []
    if temperature is not None:
        remarks.append(_temperature_remark(temperature, table, network.classes))
    if sets is not None:
        remarks.append(_sets_remark(sets, network.classes))
    if threshold is not None:
        remarks.append(
            f"abstention below a confidence of {threshold:.4f}, which keeps {coverage:.0%} of the {len(table)} validation "
            "images, but not of each class"
        )
    return Fitted(temperature, sets, threshold, tuple(remarks))


def run_predictions(network: Trained, part: str) -> pd.DataFrame:
    """Return the predictions of a run on its "val" or "test" part.

    Raises:
        UserError: the network is a checkpoint without a run folder, or the run has no such predictions.
    """
    if network.run is None:
        raise UserError(
            "calibrate, conformal and coverage need the predictions of a run, and a checkpoint by itself has none; "
            "give run=<run folder>"
        )
    table, classes = read_predictions(network.run.path / "predictions" / f"{part}.csv")
    if tuple(classes) != network.classes:
        raise UserError(
            f"{network.run.path}/predictions/{part}.csv has other classes than the checkpoint; train the run again"
        )
    return table


def _of_export(network: Exported, *, calibrate: bool, conformal: float | None, coverage: float | None) -> Fitted:
    def stored(key: str, setting: str) -> Any:
        value = network.card.get(key)
        if value is None:
            raise UserError(
                f"{setting}: {network.folder} holds no {key} that was fitted; give run=<run folder> instead"
            )
        return value

    if coverage is not None:
        raise UserError(
            f"coverage={coverage} is fitted on validation predictions, which an export lacks; give run=<run folder>"
        )
    temperature = stored("temperature", "calibrate=true") if calibrate else None
    if temperature is not None and not (isinstance(temperature, int | float) and temperature > 0):
        raise UserError(
            f"the temperature in {network.folder} is {temperature}, not a number above 0; export the run again"
        )
    if conformal is not None:
        stored("conformal", f"conformal={conformal}")
    sets = None if conformal is None else network.sets()
    if sets is not None and not np.isclose(sets.level, conformal or 0):
        raise UserError(
            f"conformal={conformal}: the sets of {network.folder} were fitted at {sets.level}; give conformal={sets.level}"
        )
    remarks = [f"temperature {temperature:.3f}, of the export"] if temperature is not None else []
    remarks += [_sets_remark(sets, network.classes)] if sets is not None else []
    return Fitted(temperature, sets, None, tuple(remarks))


def _temperature_remark(temperature: float, table: pd.DataFrame, classes: Sequence[str]) -> str:
    change = largest_change(table, classes, temperature)
    said = f"temperature {temperature:.3f}, fitted on {len(table)} validation images"
    if change <= _NO_CHANGE:
        return f"{said}: it changes nothing (no probability by more than {_NO_CHANGE})"
    return f"{said}: it changes a probability by up to {change:.3f}, and no prediction"


def _sets_remark(sets: Conformal, classes: Sequence[str]) -> str:
    counts = ", ".join(f"{name} {n}" for name, n in zip(classes, sets.n, strict=True))
    said = f"conformal sets at {sets.level:g}, fitted by class on validation images: {counts}"
    few = [name for name, threshold in zip(classes, sets.threshold, strict=True) if not np.isfinite(threshold)]
    if not few:
        return said
    return f"{said}; {', '.join(few)}: in every set, for fewer than the {least_images(sets.level)} images that the level needs"
