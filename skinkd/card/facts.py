"""The facts of a model card as plain values: model_card.json holds them, and MODEL_CARD.md lays them out."""

import ast
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from skinkd import __version__
from skinkd.card.checklists import checklists
from skinkd.card.run import StoredRun, read_run
from skinkd.card.scores import abstention, calibration, records, results, subgroups
from skinkd.card.words import intended_use, limits, not_for, protocol_sentence
from skinkd.config.identity import identity
from skinkd.data.source import Source, source_of
from skinkd.inference.trained import Trained
from skinkd.models.cost import network_macs

_PACKAGES = ("torch", "torchvision", "timm", "lightning", "albumentations", "opencv-python-headless", "numpy")


def card_facts(
    trained: Trained, *, paths: Mapping[str, Any] | None, export: pd.DataFrame | None, export_notes: Sequence[str]
) -> dict[str, Any]:
    """Return every fact of the card, in its order; the arguments are those of ``write_card``.

    A section of which nothing is known is None, or has a sentence under ``reason`` that says why.
    """
    config, stored = trained.config, read_run(trained)
    source = None if config is None else source_of(config["data"]["table"])
    facts: dict[str, Any] = {
        "name": trained.run.path.resolve().name if trained.run is not None else _network_name(trained),
        "model": _model(trained),
        "data": None if config is None else _data(config, source, stored),
        "split": None if config is None else _split(config, stored),
        "results": results(trained, stored),
        "subgroups": subgroups(trained, stored, source, paths),
        "calibration": calibration(trained, stored),
        "abstention": abstention(trained, stored),
        "teacher": None if config is None else _teacher(config, stored),
        "recipe": None if config is None else _recipe(config, stored),
        "export": None if export is None else _export(export, export_notes),
        "provenance": _provenance(trained, stored),
    }
    facts |= {"intended_use": intended_use(facts), "not_for": not_for(facts), "limits": limits(facts)}
    return facts | {"checklists": checklists(facts)}


def _network_name(trained: Trained) -> str:
    return f"{trained.card['backbone'].get('name', 'network')}, {len(trained.classes)} classes"


def _model(trained: Trained) -> dict[str, Any]:
    method = None if trained.config is None else str(trained.config["method"]["name"])
    return {
        "network": str(trained.card["backbone"].get("name", "")),
        "image_size": trained.image_size,
        "classes": list(trained.classes),
        "parameters": sum(parameter.numel() for parameter in trained.network.parameters()),
        "macs": network_macs(trained.network, trained.image_size),
        "method": method,
        "method_description": None if trained.config is None else _method_text(trained.config["method"]),
        "training_images": len(trained.card["images"]["train"]),
        "validation_images": len(trained.card["images"]["val"]),
    }


def _method_text(method: Mapping[str, Any]) -> str:
    """Return what the module of a method of ours says of it and of its source; "" for a method of another package."""
    package, _, module = str(method["_target_"]).rpartition(".")[0].rpartition(".")
    if package != "skinkd.methods":
        return ""
    text = ast.get_docstring(ast.parse(files(package).joinpath(f"{module}.py").read_text(encoding="utf-8"))) or ""
    return " ".join(text.replace("``", "").split())


def _data(config: dict[str, Any], source: Source | None, stored: StoredRun) -> dict[str, Any]:
    table, name = config["data"]["table"], str(config["data"]["name"])
    if source is None:
        known: dict[str, Any] = {"title": name, "shows": "images of the user's own", "licence": None}
        known |= {"licence_note": "", "citations": []}
        group = config["data"].get("columns", {}).get("group")
        same = f"they have the same value in the column {group!r} of the table" if group else ""
        if not same and table.get("near_duplicate_bits") is not None:
            same = "they are near-copies of each other; the data tells neither lesions nor patients"
    else:
        known = {
            "title": source.title or name,
            "shows": source.shows or "images of that dataset",
            "licence": source.licence_for(table),
            "licence_note": source.licence_note,
            "citations": list(source.citations),
        }
        same = source.same_lesion or _same_group(source, stored)
    return {
        "name": name,
        **known,
        "class_names": {} if source is None else dict(source.class_names),
        "published": source is not None and not source.generated,
        "drawn": source is not None and source.generated,
        "same_lesion": same,
        "by_patient": source is not None and source.by_patient,
        "parts": stored.audit.get("parts"),
    }


def _same_group(source: Source, stored: StoredRun) -> str:
    """When two images count as images of one lesion, where the source does not say it; "": never."""
    if source.by_patient:
        return "they show the same patient"
    several = stored.test is not None and stored.test["group"].nunique() < len(stored.test)
    return "the loader of the dataset puts them into one group" if several else ""


def _split(config: dict[str, Any], stored: StoredRun) -> dict[str, Any]:
    audit, near = stored.audit, stored.audit.get("near_duplicates")
    return {
        "protocol": config["protocol"],
        "meaning": protocol_sentence(config["protocol"]),
        "seed": config["data"]["split_seed"],
        "fold": config["data"]["fold"],
        "folds": config["data"]["folds"],
        "lesions_in_two_parts": audit.get("groups_in_two_parts"),
        "test_images_with_lesion_in_train": audit.get("leak_train"),
        "test_images_with_lesion_in_train_or_val": audit.get("leak_train_or_val"),
        "near_duplicate_bits": near and near["bits"],
        "near_duplicate_pairs": near
        and {name: near[name]["pairs"] for name in ("test-train", "test-val", "val-train") if name in near},
    }


def _teacher(config: dict[str, Any], stored: StoredRun) -> dict[str, Any] | None:
    teacher = config["method"].get("teacher")
    if not teacher:
        return None
    given, trained_for_it = str(teacher["ckpt"]), teacher["ckpt"] == "auto"
    scores = {
        name.removeprefix("teacher/test/"): value
        for name, value in stored.metrics.items()
        if name.startswith("teacher/test/")
    }
    recipe = teacher.get("run") or {}
    return {
        "run": None if trained_for_it else _last_name(given),
        # a given checkpoint need not come from the recipe of the configuration
        "network": recipe.get("backbone", {}).get("name") if trained_for_it else None,
        "method": recipe.get("method", {}).get("name") if trained_for_it else None,
        "may_have_seen_test_images": bool(teacher.get("allow_overlap", False)),
        "scores": scores,
    }


def _recipe(config: dict[str, Any], stored: StoredRun) -> list[dict[str, str]]:
    """Return the settings of the training in words, without any path of the machine."""
    backbone, data, trainer, optim = (config[name] for name in ("backbone", "data", "trainer", "optim"))
    start = "random"
    if backbone.get("pretrained"):
        start = "timm's pretrained weights"
    if backbone.get("weights"):
        start = f"the file {_last_name(backbone['weights'])}"
    epochs = str(trainer["max_epochs"])
    if "best_epoch" in stored.metrics:
        epochs = f"{stored.metrics['epochs']} of at most {epochs}; epoch {stored.metrics['best_epoch']} was chosen"
    mix = config["augment"].get("mix", "none")
    settings = {
        "method": config["method"]["name"],
        "settings of the method": _joined(config["method"], without=("_target_", "name")),
        "weights of the loss terms": _joined(config["method"]["loss_weights"]),
        "loss on the labels": config["loss"]["name"],
        "label smoothing": config["loss"].get("label_smoothing", 0.0),
        "class weights": config["class_weights"],
        "sampler": config["sampler"],
        "first weights": start,
        "optimizer": f"{_last_part(optim['optimizer']['_target_'])}: {_joined(optim['optimizer'])}",
        "schedule": _last_part(optim["schedule"]["_target_"]) if optim.get("schedule") else "none",
        "epochs": epochs,
        "chosen by": f"{config['monitor']['metric']} ({config['monitor']['mode']}), on the validation part",
        "batch size of each process": data["batch_size"],
        "processes": trainer.get("devices", 1),
        "precision": trainer.get("precision", "32-true"),
        "augmentation": ", ".join(_last_part(one["_target_"]) for one in config["augment"].get("train") or [])
        or "none",
        "mixing of images": mix,
        "moving average of the weights": config["ema"]["decay"] or "none",
        "seed": config["seed"],
    }
    return [{"setting": name, "value": str(value)} for name, value in settings.items()]


def _joined(settings: Mapping[str, Any], without: Sequence[str] = ("_target_", "_partial_")) -> str:
    """Return the settings that are single values, in words."""
    shown = {name: value for name, value in settings.items() if name not in without}
    return ", ".join(f"{name} {value}" for name, value in shown.items() if not isinstance(value, dict)) or "none"


def _last_part(target: str) -> str:
    return target.rpartition(".")[2]


def _last_name(path: str) -> str:
    """Return the name of a file, or of the run folder around a checkpoint: a card shows no path of the machine."""
    place = Path(path)
    return place.parent.parent.name if place.parent.name == "checkpoints" else place.name


def _export(export: pd.DataFrame, notes: Sequence[str]) -> dict[str, Any]:
    return {"notes": list(notes), "columns": list(map(str, export.columns)), "rows": records(export)}


def _provenance(trained: Trained, stored: StoredRun) -> dict[str, Any]:
    told = stored.environment
    return {
        "skinkd": __version__,
        "configuration_hash": None if trained.config is None else identity(trained.config),
        "commit": told.get("commit"),
        "python": told.get("python"),
        "platform": told.get("platform"),
        "processor": told.get("processor"),
        "gpu": told.get("gpu"),
        "packages": {name: told[name] for name in _PACKAGES if name in told},
    }
