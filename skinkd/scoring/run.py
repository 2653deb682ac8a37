"""Scoring the selected checkpoint, once, and writing what a run leaves behind."""

from typing import Any

import numpy as np
import pandas as pd

from skinkd.build.objects import build_trainer
from skinkd.data.datamodule import SkinDataModule
from skinkd.data.files import read_image
from skinkd.methods.base import Method
from skinkd.models.cost import exit_macs, network_macs
from skinkd.models.hybrid import HybridStudent, HybridTeacher
from skinkd.runs.console import is_main_process
from skinkd.runs.folder import RunFolder
from skinkd.runs.plots import plot_confusion, plot_curves
from skinkd.runs.tables import print_results
from skinkd.runs.tracking import Report, Tracker
from skinkd.scoring.bootstrap import bootstrap_intervals
from skinkd.scoring.early_exit import FINAL, early_exit_curve
from skinkd.scoring.metrics import evaluate, per_class


def score_and_report(
    config: dict[str, Any],
    folder: RunFolder,
    data: SkinDataModule,
    method: Method,
    tracker: Tracker,
    *,
    beside: dict[str, float],
) -> None:
    """Score best.ckpt on validation and test; write predictions, plots and, last, metrics.json; print the table.

    With ``evaluation.test=false`` no test image is loaded, and pictures and tables are those of the validation part.
    ``beside`` are numbers that stand beside the run's own: its split's leak, its teacher's scores.
    """
    # a trainer without callbacks: the EMA callback of the fit would put its last average in place of the best one
    scorer = build_trainer(config, callbacks=[], logger=None)
    best = folder.checkpoints / "best.ckpt"
    scorer.validate(method, datamodule=data, ckpt_path=best, verbose=False)
    tables, exits = {"val": method.table}, {"val": method.exit_tables}
    tested = config["evaluation"]["test"]
    if tested:
        scorer.test(method, datamodule=data, ckpt_path=best, verbose=False)
        tables["test"], exits["test"] = method.table, method.exit_tables
    else:
        beside = {name: value for name, value in beside.items() if "test/" not in name}  # the teacher's
    if not is_main_process():
        return
    history = pd.read_csv(folder.path / "history.csv")
    metrics = {**_about(config, history, method), **_scores(config, tables, data.classes), **beside}
    metrics |= _exit_scores(config, exits, data.classes)
    shown = "test" if tested else "val"
    by_class = per_class(tables[shown], data.classes, level=config["evaluation"]["interval"])
    for part, table in tables.items():
        folder.write_csv(f"predictions/{part}.csv", table)
    if tested and exits["test"]:
        folder.write_csv("predictions/early_exit.csv", _early_exit(config, method, exits["test"], data.classes))
    plot_curves(history, folder.path / "curves.png", best_epoch=metrics["best_epoch"])
    plot_confusion(tables[shown], data.classes, folder.path / "confusion_matrix.png")
    examples = _examples(data, shown, tables[shown], config["logger"].get("example_images", 0))
    tracker.report(Report(metrics, shown, tables[shown], data.classes, by_class, examples))
    folder.write_json("metrics.json", metrics)
    print_results(metrics, by_class, level=config["evaluation"]["interval"], title=folder.path.name, folder=folder.path)


def _about(config: dict[str, Any], history: pd.DataFrame, method: Method) -> dict[str, Any]:
    """Facts of the run that are no scores; ``parameters`` and ``macs`` (of one image) are the deployed network's alone."""
    monitored = history[config["monitor"]["metric"]]
    best = monitored.idxmax() if config["monitor"]["mode"] == "max" else monitored.idxmin()
    return {
        "epochs": len(history),
        "best_epoch": int(history.loc[best, "epoch"]),
        "parameters": sum(parameter.numel() for parameter in method.network.parameters()),
        "macs": network_macs(method.network, config["backbone"]["image_size"]),
    }


def _scores(config: dict[str, Any], tables: dict[str, pd.DataFrame], classes: tuple[str, ...]) -> dict[str, float]:
    """Every metric of each scored part, and the test metrics' intervals as ``test/<name>_low`` and ``_high``."""
    settings = config["evaluation"]
    bins = settings["calibration_bins"]
    scores = {
        f"{part}/{name}": value
        for part, table in tables.items()
        for name, value in evaluate(table, classes, calibration_bins=bins).items()
    }
    if "test" not in tables:
        return scores
    intervals = bootstrap_intervals(
        tables["test"],
        classes,
        replicates=settings["bootstrap_replicates"],
        seed=config["seed"],
        level=settings["interval"],
        calibration_bins=bins,
    )
    for name, (low, high) in intervals.items():
        scores |= {f"test/{name}_low": low, f"test/{name}_high": high}
    return scores


def _exit_scores(
    config: dict[str, Any], exits: dict[str, dict[str, pd.DataFrame]], classes: tuple[str, ...]
) -> dict[str, float]:
    """Every metric of every exit of each scored part, as ``<part>/<exit>/<name>``."""
    bins = config["evaluation"]["calibration_bins"]
    return {
        f"{part}/{exit}/{name}": value
        for part, tables in exits.items()
        for exit, table in tables.items()
        for name, value in evaluate(table, classes, calibration_bins=bins).items()
    }


def _early_exit(
    config: dict[str, Any], method: Method, exits: dict[str, pd.DataFrame], classes: tuple[str, ...]
) -> pd.DataFrame:
    """Accuracy and cost on test of stopping at the first exit that is sure enough, for each threshold."""
    assert isinstance(method.network, HybridStudent | HybridTeacher)
    macs = exit_macs(method.network, config["backbone"]["image_size"])
    return early_exit_curve(
        {**exits, FINAL: method.table},
        classes,
        macs={**macs, FINAL: macs[""]},
        thresholds=config["evaluation"]["early_exit_thresholds"],
        calibration_bins=config["evaluation"]["calibration_bins"],
    )


def _examples(data: SkinDataModule, part: str, table: pd.DataFrame, count: int) -> list[tuple[np.ndarray, str]]:
    """The first ``count`` images of a part, each with its label and its predicted class and probability."""
    paths = data.rows(part).set_index("image_id")["path"]
    return [
        (
            read_image(paths[row["image_id"]]),
            f"{row['label']}, predicted {row['prediction']} ({row['p_' + row['prediction']]:.2f})",
        )
        for _, row in table.head(count).iterrows()
    ]
