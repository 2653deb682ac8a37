"""Shows on a run's test part what temperature, conformal sets and abstention do, class by class."""

import math

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skinkd.errors import UserError
from skinkd.inference.exported import Exported
from skinkd.inference.fitted import Fitted, run_predictions
from skinkd.inference.trained import Trained
from skinkd.runs.tables import plain_table
from skinkd.scoring.conformal import fit_conformal, score_sets
from skinkd.scoring.metrics import evaluate
from skinkd.scoring.selective import aurc, selective_by_class
from skinkd.scoring.temperature import apply_temperature


def report_on_test(network: Trained | Exported, fitted: Fitted) -> None:
    """Print a table for each thing that was fitted on validation, as scored on the test predictions of the run.

    Raises:
        UserError: the network is no run's, or its test part was not scored.
    """
    if isinstance(network, Exported) or network.config is None:
        raise UserError(
            "input has no value, and an export has no test predictions to report on; give input=… or a run folder"
        )
    test, classes, console = run_predictions(network, "test"), network.classes, Console(highlight=False)
    if fitted.temperature is not None:
        bins = network.config["evaluation"]["calibration_bins"]
        after = apply_temperature(test, classes, fitted.temperature)
        before_and_after = [evaluate(table, classes, calibration_bins=bins) for table in (test, after)]
        shown = plain_table("calibration, test", "as trained", "with temperature")
        for name, label in {"ece": "calibration error (ECE)", "brier": "Brier score", "loss": "loss"}.items():
            shown.add_row(label, *(f"{metrics[name]:.3f}" for metrics in before_and_after))
        _print(console, shown)
    if fitted.conformal is not None:
        _print(console, _sets(network, fitted, test))
    if fitted.threshold is not None:
        shown = plain_table("abstention, test", "images", "kept", "share kept", "sensitivity", "sensitivity, kept")
        for _, row in selective_by_class(test, classes, threshold=fitted.threshold).iterrows():
            counts, shares = (row["n"], row["kept"]), (row["coverage"], row["accuracy"], row["accuracy_kept"])
            shown.add_row(Text(_name(row, accuracy=True)), *map(str, counts), *map(_share, shares))
        _print(console, shown)
        area, excess = aurc(test, classes)
        said = f"area under the risk–coverage curve: {area:.4f}, of which {excess:.4f} excess over the best order"
        console.print(said, soft_wrap=True)


def _sets(network: Trained, fitted: Fitted, test: pd.DataFrame) -> Table:
    """Return the table of class-conditional sets, with the coverage of marginal sets next to theirs."""
    assert fitted.conformal is not None
    level, classes = fitted.conformal.level, network.classes
    marginal = fit_conformal(run_predictions(network, "val"), classes, level=level, by_class=False)
    own, other = (score_sets(test, classes, sets) for sets in (fitted.conformal, marginal))
    shown = plain_table(f"sets at {level:g}, test", "fit on", "images", "covered", "size", "marginal", "size")
    for (_, row), (_, all_alike) in zip(own.iterrows(), other.iterrows(), strict=True):
        shown.add_row(
            Text(_name(row, accuracy=False)),
            str(row["n_fit"]),
            str(row["n"]),
            *(_share(value) for value in (row["coverage"], row["size"], all_alike["coverage"], all_alike["size"])),
        )
    return shown


def _name(row: pd.Series, *, accuracy: bool) -> str:
    if row["class"] == "all":
        return "all (accuracy)" if accuracy else "all"
    return row["class"] if accuracy or row["enough"] else f"{row['class']} (in every set)"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _print(console: Console, table: Table) -> None:
    console.print()
    console.print(table)
