"""The scores of a model card: of the test part, by class, by subgroup, the calibration, and what abstention keeps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skinkd.build.seen import own_images
from skinkd.card.run import StoredRun
from skinkd.data.source import Source
from skinkd.data.table import SUBGROUPS
from skinkd.inference.trained import Trained
from skinkd.scoring.metrics import evaluate, per_class
from skinkd.scoring.selective import abstention_threshold, aurc, risk_coverage, selective_by_class
from skinkd.scoring.subgroups import age_bands, subgroup_scores, subgroup_sensitivity
from skinkd.scoring.temperature import apply_temperature, fit_temperature

LEAST_LESIONS = 20
"""A subgroup, or a class within it, with fewer lesions has no score: at 20 lesions Wilson's 95 % interval of a sensitivity
of one half is 0.30 to 0.70."""
AGE_EDGES = (30, 45, 60, 75)
COVERAGES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Points of the risk–coverage curve that a card shows."""
ABSTENTION = 0.8
"""The share of the validation images on which the network does not abstain in the table by class."""
METRICS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1_macro": "F1, mean over classes",
    "auroc_macro": "AUROC, mean over classes",
    "average_precision_macro": "Average precision, mean over classes",
}
PROPERTIES = {
    "sex": "Sex",
    "age": "Age in years",
    "body_site": "Body site",
    "confirmation": "How the diagnosis was confirmed",
}
_OUTSIDE = "The checkpoint lies outside a run folder, so no score of it is known."
_UNFINISHED = "The run is not finished, so it has no scores yet."
_UNTESTED = "The test part of this run was not scored (evaluation.test=false)."


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as plain values for JSON; a missing number is None."""
    return [
        {str(name): _plain(value) for name, value in zip(frame.columns, row, strict=True)}
        for row in frame.itertuples(index=False, name=None)
    ]


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


def results(trained: Trained, stored: StoredRun) -> dict[str, Any]:
    """Return the scores of the test part with their intervals, over all classes and by class; else the reason."""
    if reason := _why_not_scored(trained, stored):
        return {"reason": reason}
    assert trained.config is not None and stored.test is not None
    level = trained.config["evaluation"]["interval"]
    return {
        "reason": None,
        "level": level,
        "least_lesions": LEAST_LESIONS,
        "images": len(stored.test),
        "lesions": int(stored.test["group"].nunique()),
        "metrics": [_metric(stored.metrics, name, title) for name, title in METRICS.items()],
        "classes": records(per_class(stored.test, trained.classes, level=level)),
    }


def _why_not_scored(trained: Trained, stored: StoredRun) -> str | None:
    if trained.run is None:
        return _OUTSIDE
    if stored.test is None:
        return _UNTESTED if stored.metrics else _UNFINISHED
    return None


def _metric(metrics: Mapping[str, Any], name: str, title: str) -> dict[str, Any]:
    low, high = metrics.get(f"test/{name}_low"), metrics.get(f"test/{name}_high")
    return {"metric": name, "title": title, "value": metrics.get(f"test/{name}"), "low": low, "high": high}


def calibration(trained: Trained, stored: StoredRun) -> dict[str, Any]:
    """Return calibration error and Brier score of the test part, and both after a temperature fitted on validation."""
    if reason := _why_not_scored(trained, stored):
        return {"reason": reason}
    assert trained.config is not None and stored.test is not None
    bins = trained.config["evaluation"]["calibration_bins"]
    found: dict[str, Any] = {
        "reason": None,
        "bins": bins,
        "metrics": [
            _metric(stored.metrics, "ece", "Calibration error (ECE)"),
            _metric(stored.metrics, "brier", "Brier score, from 0 to 2"),
        ],
        "temperature": None,
        "after": None,
    }
    if stored.val is not None:
        temperature = fit_temperature(stored.val, trained.classes)
        scaled = apply_temperature(stored.test, trained.classes, temperature)
        after = evaluate(scaled, trained.classes, calibration_bins=bins)
        found |= {"temperature": temperature, "after": {name: after[name] for name in ("ece", "brier")}}
    return found


def abstention(trained: Trained, stored: StoredRun) -> dict[str, Any]:
    """Return the risk–coverage curve of the test part, and what a threshold chosen on validation keeps of each class."""
    if reason := _why_not_scored(trained, stored):
        return {"reason": reason}
    if stored.val is None:
        return {"reason": "No threshold was chosen, because the run has no predictions of the validation part."}
    assert stored.test is not None
    classes = trained.classes
    threshold = abstention_threshold(stored.val, classes, coverage=ABSTENTION)
    area, excess = aurc(stored.test, classes)
    curve = risk_coverage(stored.test, classes)
    reached = [curve[curve["coverage"] >= share].iloc[0] for share in COVERAGES]  # the fewest images that are enough
    return {
        "reason": None,
        "aurc": area,
        "aurc_excess": excess,
        "curve": [{"coverage": float(point["coverage"]), "accuracy": 1 - float(point["risk"])} for point in reached],
        "chosen_coverage": ABSTENTION,
        "threshold": threshold,
        "classes": records(selective_by_class(stored.test, classes, threshold=threshold)),
    }


def subgroups(
    trained: Trained, stored: StoredRun, source: Source | None, paths: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the scores of the test part by the properties that the dataset's metadata has; else the reason."""
    if reason := _why_not_scored(trained, stored):
        return {"reason": reason}
    config = trained.config
    assert config is not None and stored.test is not None
    if source is None or not source.subgroups:
        return {"reason": "The data tells neither sex, age, body site nor confirmation of the diagnosis."}
    drawn_again = source.generated and not Path(config["data"]["table"]["root"]).is_dir()  # a card generates no data
    images = None if drawn_again else own_images(config, trained.card, paths or config["paths"])[0]
    if images is None:
        return {"reason": "The dataset's metadata, which has the subgroups, cannot be read where the run had it."}
    known = [column for column in SUBGROUPS if column in images.columns]
    if not known:
        return {"reason": "The dataset's metadata has none of its columns of subgroups."}
    columns = images[["image_id", *known]]
    if "age" in known:
        columns = columns.assign(age=age_bands(columns["age"].tolist(), AGE_EDGES))
    level, least = config["evaluation"]["interval"], LEAST_LESIONS
    scores = subgroup_scores(
        stored.test,
        columns,
        trained.classes,
        least_lesions=least,
        replicates=config["evaluation"]["bootstrap_replicates"],
        seed=config["seed"],
        level=level,
    )
    sensitivity = subgroup_sensitivity(stored.test, columns, trained.classes, least_lesions=least, level=level)
    return {
        "reason": None,
        "least_lesions": least,
        "level": level,
        "properties": [
            {"property": name, "title": PROPERTIES[name], "column": source.subgroups.get(name, name)} for name in known
        ],
        "scores": records(scores),
        "sensitivity": records(sensitivity),
    }
