"""Jobs of sweeps that nobody trains: their configurations, and the files that a run leaves."""

import json
from pathlib import Path
from typing import Any

from skinkd.jobs.sweep import Job, stage_of

METRIC = "val/auroc_macro"


def config(folder: Path, *, accelerator: str = "cpu", devices: int = 1, **other: Any) -> dict[str, Any]:
    return {
        "force": False,
        "group": None,
        "run_dir": str(folder),
        "paths": {},
        "method": {"name": "m"},
        "backbone": {"name": "b"},
        "data": {"image_size": 8},
        "trainer": {"accelerator": accelerator, "devices": devices, "max_epochs": 4},
        "evaluation": {"test": True},
        **other,
    }


def job(folder: Path, *overrides: str, teachers: tuple[Path, ...] = (), **settings: Any) -> Job:
    own = config(folder, **settings)
    stages = [stage_of(path, own) for path in teachers]
    return Job(list(overrides), own, stage_of(folder, own), stages, label=" ".join(overrides) or folder.name)


def finish(folder: Path, **numbers: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(
        json.dumps({f"test/{name}": value for name, value in {"n": 9, **numbers}.items()})
    )


def history(folder: Path, seconds: list[float], value: float = 0.5) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{number},{one},{value}" for number, one in enumerate(seconds, start=1)]
    (folder / "history.csv").write_text("\n".join([f"epoch,seconds,{METRIC}", *rows]) + "\n")
