"""Scores the selected checkpoint once, and writes the files of the finished run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skinkd.build.checkpoints import open_checkpoint
from skinkd.data.datamodule import SkinDataModule
from skinkd.data.files import read_image
from skinkd.methods.base import Method
from skinkd.models.cost import exit_macs, network_macs
from skinkd.models.hybrid import HybridStudent, HybridTeacher
from skinkd.runs.checkpoints import BEST
from skinkd.runs.console import is_main_process
from skinkd.runs.folder import RunFolder
from skinkd.runs.history import read_history
from skinkd.runs.plots import plot_confusion, plot_curves
from skinkd.runs.tables import print_results
from skinkd.runs.tracking import Report, Tracker, failure_is_a_warning
from skinkd.scoring.bootstrap import intervals_of_test
from skinkd.scoring.early_exit import FINAL, early_exit_curve
from skinkd.scoring.metrics import per_class
from skinkd.training.scorer import Scored, Scorer
from skinkd.training.trainer import build_trainer


def score_and_report(
    config: dict[str, Any],
    folder: RunFolder,
    data: SkinDataModule,
    method: Method,
    tracker: Tracker,
    *,
    extra_metrics: dict[str, float],
) -> None:
    """Score best.ckpt on validation and test; write predictions, plots and, last, metrics.json; print the table.

    With ``evaluation.test=false`` no test image is loaded, and the plots and tables show the validation part.
    ``extra_metrics`` are added to metrics.json: the leak of the split, and the scores of the teacher.
    """
    tested = config["evaluation"]["test"]
    shown = "test" if tested else "val"
    parts = ("val", "test") if tested else ("val",)
    results = score_checkpoint(config, data, method, folder.checkpoints / BEST, parts=parts)
    if not tested:  # the teacher's test scores stay unseen too
        extra_metrics = {name: value for name, value in extra_metrics.items() if "test/" not in name}
    if not is_main_process():
        return
    epochs = read_history(folder.path)
    history = pd.DataFrame(epochs.rows, columns=epochs.columns)
    best_epoch = open_checkpoint(folder.checkpoints / BEST, setting="best.ckpt")["epoch"] + 1
    about = _about(config, method, epochs=len(history), best_epoch=best_epoch)
    metrics = {**about, **_network_scores(config, results, data.classes), **extra_metrics}
    metrics |= _exit_scores(results)
    tables = {part: outputs[""].table for part, outputs in results.items()}
    by_class = per_class(tables[shown], data.classes, level=config["evaluation"]["interval"])
    for part, table in tables.items():
        folder.write_csv(f"predictions/{part}.csv", table)
    if tested and len(results["test"]) > 1:
        folder.write_csv("predictions/early_exit.csv", _early_exit(config, method, results["test"], data.classes))
    plot_curves(history, folder.path / "curves.png", best_epoch=metrics["best_epoch"])
    plot_confusion(tables[shown], data.classes, folder.path / "confusion_matrix.png")
    examples = _examples(data, shown, tables[shown], config["logger"].get("example_images", 0))
    with failure_is_a_warning():
        tracker.report(Report(metrics, shown, tables[shown], data.classes, by_class, examples))
    folder.write_json("metrics.json", metrics)
    print_results(metrics, by_class, level=config["evaluation"]["interval"], title=folder.path.name, folder=folder.path)


def score_checkpoint(
    config: dict[str, Any], data: SkinDataModule, method: Method, checkpoint: Path, *, parts: Sequence[str]
) -> dict[str, dict[str, Scored]]:
    """Score a checkpoint on ``parts`` ("val", "test"); return the Scorer's ``results[part][output]``, in every process."""
    scorer = Scorer(data, calibration_bins=config["evaluation"]["calibration_bins"])
    # not the trainer of the fit: its EMA callback would replace the checkpoint's averaged weights by the last average
    trainer = build_trainer(config, callbacks=[scorer], logger=None)
    for part in parts:
        run = trainer.validate if part == "val" else trainer.test
        run(method, datamodule=data, ckpt_path=checkpoint, verbose=False)
    return scorer.results


def _about(config: dict[str, Any], method: Method, *, epochs: int, best_epoch: int) -> dict[str, Any]:
    """Return the run's epochs, and the deployed network's parameters and multiply-adds (``macs``) for one image."""
    return {
        "epochs": epochs,
        "best_epoch": best_epoch,
        "parameters": sum(parameter.numel() for parameter in method.network.parameters()),
        "macs": network_macs(method.network, config["backbone"]["image_size"]),
    }


def _network_scores(
    config: dict[str, Any], results: dict[str, dict[str, Scored]], classes: tuple[str, ...]
) -> dict[str, float]:
    """Return the deployed network's metrics of each part, and the intervals as ``test/<name>_low`` and ``_high``."""
    scores = {
        f"{part}/{name}": value for part, outputs in results.items() for name, value in outputs[""].metrics.items()
    }
    if "test" not in results:
        return scores
    return scores | intervals_of_test(results["test"][""].table, classes, config["evaluation"], seed=config["seed"])


def _exit_scores(results: dict[str, dict[str, Scored]]) -> dict[str, float]:
    """Return every metric of every exit of each part, as ``<part>/<exit>/<name>``."""
    return {
        f"{part}/{exit}/{name}": value
        for part, outputs in results.items()
        for exit, scored in outputs.items()
        if exit
        for name, value in scored.metrics.items()
    }


def _early_exit(
    config: dict[str, Any], method: Method, outputs: dict[str, Scored], classes: tuple[str, ...]
) -> pd.DataFrame:
    """Return accuracy and cost of stopping at the first exit that reaches a threshold, for each threshold."""
    assert isinstance(method.network, HybridStudent | HybridTeacher)
    macs = exit_macs(method.network, config["backbone"]["image_size"])
    exits = {name: scored.table for name, scored in outputs.items() if name}
    return early_exit_curve(
        {**exits, FINAL: outputs[""].table},
        classes,
        macs={**macs, FINAL: macs[""]},
        thresholds=config["evaluation"]["early_exit_thresholds"],
        calibration_bins=config["evaluation"]["calibration_bins"],
    )


def _examples(data: SkinDataModule, part: str, table: pd.DataFrame, count: int) -> list[tuple[np.ndarray, str]]:
    """Return the first ``count`` images of a part, (H, W, 3) each, with label, predicted class and probability in words."""
    paths = data.rows(part).set_index("image_id")["path"]
    return [
        (
            read_image(paths[row["image_id"]]),
            f"{row['label']}, predicted {row['prediction']} ({row['p_' + row['prediction']]:.2f})",
        )
        for _, row in table.head(count).iterrows()
    ]
