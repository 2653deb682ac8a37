"""Run folders made of random numbers, by the writers that real runs use: no training."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from run_factory import CLASSES, MakeRun, image_rows, predictions

from skinkd.config.identity import run_path
from skinkd.runs.folder import RunFolder
from skinkd.scoring.metrics import evaluate


@pytest.fixture
def base_config(tmp_path: Path) -> dict[str, Any]:
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
        "paths": {"data_dir": "data", "output_dir": str(tmp_path / "outputs"), "cache_dir": str(tmp_path / "cache")},
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


@pytest.fixture
def make_run(base_config: dict[str, Any]) -> MakeRun:
    """Writes a finished run; returns its folder.

    ``settings`` are dotted names, written with two underscores: ``backbone__name="resnet50"``.
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


@pytest.fixture
def study(make_run: MakeRun) -> Path:
    """Three methods with three seeds each, in one folder."""
    for method, skill in (("supervised", 1.0), ("kd", 1.4), ("swskd", 1.0)):
        for seed in range(3):
            folder = make_run(method, skill=skill + 0.05 * seed, seed=seed)
    return folder.parent
