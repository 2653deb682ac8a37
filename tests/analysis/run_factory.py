"""Images, predictions and run folders made of random numbers, by the writers that real runs use: no training."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skinkd.config.identity import run_path
from skinkd.runs.folder import RunFolder
from skinkd.scoring.metrics import evaluate
from skinkd.scoring.predictions import prediction_table

CLASSES = ("akiec", "bcc", "mel", "nv")
SHARES = (0.15, 0.2, 0.25, 0.4)

MakeRun = Callable[..., Path]


def image_rows(
    classes: Sequence[str], *, images: int, fold: int | None, seed: int = 0, prefix: str = "test"
) -> pd.DataFrame:
    """Images, about two of a lesion; the same for every run of a fold."""
    rng = np.random.default_rng([seed, images, 0 if fold is None else fold + 1])
    shares = np.array(SHARES[: len(classes)]) if len(classes) <= len(SHARES) else np.ones(len(classes))
    lesion = np.sort(rng.integers(images // 2 + 1, size=images))
    label_of = rng.choice(len(classes), size=images // 2 + 1, p=shares / shares.sum())
    label_of[: len(classes)] = np.arange(len(classes))
    lesion[: len(classes)] = np.arange(len(classes))  # every class is there
    name = prefix if fold is None else f"{prefix}{fold}"
    return pd.DataFrame(
        {
            "image_id": [f"{name}_{number:05d}" for number in range(images)],
            "group": [f"{name}_lesion_{number}" for number in lesion],
            "label": [classes[label_of[number]] for number in lesion],
        }
    )


def predictions(rows: pd.DataFrame, classes: Sequence[str], *, skill: float, seed: int) -> pd.DataFrame:
    """Random probabilities; the larger ``skill``, the likelier the right class; the same seed, the same noise."""
    rng = np.random.default_rng(seed)
    labels = rows["label"].map({name: number for number, name in enumerate(classes)}).to_numpy()
    logits = rng.normal(size=(len(rows), len(classes))) + skill * np.eye(len(classes))[labels]
    probability = np.exp(1.5 * logits)
    probability /= probability.sum(axis=1, keepdims=True)
    return prediction_table(rows.reset_index(drop=True), np.arange(len(rows)), probability, classes)


def config_in(root: Path) -> dict[str, Any]:
    """The parts of a resolved configuration that a comparison reads, and some that it does not."""
    return {
        "seed": 0,
        "protocol": "grouped",
        "config": None,
        "force": False,
        "group": None,
        "job_type": None,
        "run_dir": None,
        "sweep": {"devices": "auto"},
        "paths": {"data_dir": "data", "output_dir": str(root / "outputs"), "cache_dir": str(root / "cache")},
        "data": {"name": "ham10000", "image_size": 64, "split_seed": 0, "fold": None, "folds": None, "num_workers": 2},
        "backbone": {"_target_": "skinkd.models.backbone.Backbone", "name": "resnet18", "pretrained": False},
        "method": {
            "_target_": "skinkd.methods.supervised.Supervised",
            "name": "supervised",
            "loss_weights": {"ce": 1.0},
        },
        "optim": {"lr": 0.1, "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1}},
        "trainer": {"max_epochs": 3, "enable_progress_bar": False},
        "logger": {"kind": "wandb", "project": "skinkd", "entity": None},
        "evaluation": {"calibration_bins": 10, "bootstrap_replicates": 60, "interval": 0.95},
    }


def maker(base_config: dict[str, Any]) -> MakeRun:
    """A function that writes a finished run and returns its folder.

    Its ``settings`` are dotted names, written with two underscores: ``backbone__name="resnet50"``.
    """

    def make(
        method: str = "supervised",
        *,
        skill: float = 1.0,
        classes: Sequence[str] = CLASSES,
        images: int = 120,
        epochs: int = 3,
        rows: pd.DataFrame | None = None,
        finished: bool = True,
        noise: int | None = None,
        **settings: Any,
    ) -> Path:
        config = copy.deepcopy(base_config)
        config["method"] |= {"name": method, "_target_": f"skinkd.methods.{method}.Method"}
        for name, value in settings.items():
            *parents, last = name.split("__")
            node = config
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
        fold, seed = config["data"]["fold"], config["seed"]
        folder = RunFolder(run_path(config))
        rows = image_rows(classes, images=images, fold=fold) if rows is None else rows
        folder.open(config, rows[["image_id", "group"]].assign(split="test"), force=True)
        noise = sum(map(ord, method)) + 1000 * seed if noise is None else noise
        tables = {
            "val": predictions(
                image_rows(classes, images=80, fold=fold, prefix="val"), classes, skill=skill, seed=noise + 1
            ),
            "test": predictions(rows, classes, skill=skill, seed=noise),
        }
        history = pd.DataFrame(
            {
                "epoch": np.arange(1, epochs + 1),
                "val/accuracy": np.linspace(0.3, 0.5 + 0.05 * skill, epochs) + 0.01 * seed,
                "val/auroc_macro": np.linspace(0.5, 0.7 + 0.05 * skill, epochs) + 0.01 * seed,
                "val/loss": np.linspace(2.0, 1.2 - 0.1 * skill, epochs) + 0.01 * seed,
                "seconds": 10.0 + seed,
            }
        )
        folder.write_csv("history.csv", history)
        metrics: dict[str, Any] = {"epochs": epochs, "best_epoch": epochs, "parameters": 690_000, "macs": 12_300_000}
        for part, table in tables.items():
            folder.write_csv(f"predictions/{part}.csv", table)
            metrics |= {f"{part}/{k}": v for k, v in evaluate(table, classes, calibration_bins=10).items()}
        if finished:
            folder.write_json("metrics.json", metrics)
        return folder.path

    return make


def make_study(make_run: MakeRun) -> Path:
    """Three methods with three seeds each, in one folder."""
    for method, skill in (("supervised", 1.0), ("kd", 1.4), ("swskd", 1.0)):
        for seed in range(3):
            folder = make_run(method, skill=skill + 0.05 * seed, seed=seed)
    return folder.parent
