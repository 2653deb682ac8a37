"""The rows of the tables in MODEL_CARD.md."""

from collections.abc import Mapping
from typing import Any

from skinkd.card.markdown import interval, number, score

Row = list[Any]
Facts = Mapping[str, Any]


def all_rows(facts: Facts) -> dict[str, Any]:
    """Return the rows of every table by the name that the template gives it; a table without facts has none."""
    results, subgroups, export = facts["results"], facts["subgroups"], facts["export"]
    scored = not results["reason"]
    names = [] if subgroups["reason"] else [one["property"] for one in subgroups["properties"]]
    return {
        "class_name_rows": [[name, facts["data"]["class_names"].get(name, name)] for name in facts["model"]["classes"]]
        if facts["data"] and facts["data"]["class_names"]
        else [],
        "data_rows": _data_rows(facts["data"]),
        "audit_rows": _audit_rows(facts["split"]),
        "metric_rows": [_with_interval(one) for one in results["metrics"]] if scored else [],
        "class_rows": [_class_row(one) for one in results["classes"]] if scored else [],
        "subgroup_rows": {
            name: [_subgroup_row(one) for one in subgroups["scores"] if one["property"] == name] for name in names
        },
        "sensitivity_rows": {
            name: [
                [one["value"], one["class"], one["n"], one["lesions"], *_sensitivity(one)]
                for one in subgroups["sensitivity"]
                if one["property"] == name and one["sensitivity"] is not None
            ]
            for name in names
        },
        "calibration_rows": _calibration_rows(facts["calibration"]),
        "curve_rows": _curve_rows(facts["abstention"]),
        "abstention_rows": _abstention_rows(facts["abstention"]),
        "recipe_rows": [[one["setting"], one["value"]] for one in facts["recipe"] or []],
        "export_rows": [[number(row[name]) for name in export["columns"]] for row in export["rows"]] if export else [],
        "origin_rows": _origin_rows(facts),
        "item_rows": {
            one["guideline"]: [[row["item"], row["topic"], row["answer"], row["where"]] for row in one["items"]]
            for one in facts["checklists"]
        },
    }


def _with_interval(metric: Facts) -> Row:
    return [metric["title"], score(metric["value"]), interval(metric["low"], metric["high"])]


def _sensitivity(row: Facts) -> Row:
    return [score(row["sensitivity"]), interval(row["sensitivity_low"], row["sensitivity_high"])]


def _class_row(row: Facts) -> Row:
    rates = [score(row[name]) for name in ("specificity", "precision", "auroc")]
    return [row["class"], row["n"], row["lesions"], *_sensitivity(row), *rates]


def _subgroup_row(row: Facts) -> Row:
    cells = [row["value"], row["classes"] or "–", row["n"], row["lesions"]]
    for name in ("accuracy", "balanced_accuracy"):
        cells += [score(row[name]), interval(row[f"{name}_low"], row[f"{name}_high"])]
    return cells


def _data_rows(data: Facts | None) -> list[Row]:
    if not data or not data["parts"]:
        return []
    titles = {"train": "Training", "val": "Validation", "test": "Test"}
    return [
        [titles.get(name, name), part["images"], part["groups"], *part["classes"].values()]
        for name, part in data["parts"].items()
    ]


def _audit_rows(split: Facts | None) -> list[Row]:
    if not split:
        return []
    if split["lesions_in_two_parts"] is None:
        return [["Lesions in more than one part", "not audited"]]
    shared = (split[f"test_images_with_lesion_in_{part}"] for part in ("train", "train_or_val"))
    in_train, in_either = (f"{100 * share:.1f} %" for share in shared)
    rows: list[Row] = [
        ["Lesions in more than one part", split["lesions_in_two_parts"]],
        ["Test images with a lesion that is also in training", in_train],
        ["Test images with a lesion that is also in training or validation", in_either],
    ]
    names = {
        "test-train": "test and training",
        "test-val": "test and validation",
        "val-train": "validation and training",
    }
    pairs = split["near_duplicate_pairs"]
    if pairs is None:
        return [*rows, ["Near-copies of other lesions", "not looked for"]]
    return rows + [
        [f"Near-copies of other lesions, pairs between {names[name]}", number] for name, number in pairs.items()
    ]


def _calibration_rows(calibration: Facts) -> list[Row]:
    if calibration["reason"]:
        return []
    after = calibration["after"] or {}
    return [[*_with_interval(one), score(after.get(one["metric"]))] for one in calibration["metrics"]]


def _curve_rows(abstention: Facts) -> list[Row]:
    if abstention["reason"]:
        return []
    return [[score(point["coverage"]), score(point["accuracy"])] for point in abstention["curve"]]


def _abstention_rows(abstention: Facts) -> list[Row]:
    if abstention["reason"]:
        return []
    return [
        [
            "all (accuracy)" if row["class"] == "all" else row["class"],
            *(row["n"], row["kept"]),
            *(score(row[name]) for name in ("coverage", "accuracy", "accuracy_kept")),
        ]
        for row in abstention["classes"]
    ]


def _origin_rows(facts: Facts) -> list[Row]:
    origin = facts["provenance"]
    rows = [
        ["Run", facts["name"]],
        ["Configuration hash", origin["configuration_hash"]],
        ["Commit of skinkd in the training", origin["commit"]],
        ["Python", origin["python"]],
        ["Platform", origin["platform"]],
        ["Processor", origin["processor"]],
        ["GPU", origin["gpu"] or ("none" if origin["python"] else None)],
        *([name, version] for name, version in origin["packages"].items()),
        ["Version of skinkd that wrote this card", origin["skinkd"]],
    ]
    return [[name, "not known" if value is None else value] for name, value in rows]
