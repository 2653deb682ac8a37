"""What ``python -m skinkd.explain`` does: opens the run, explains its images, writes the files, prints the summary."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from skinkd.build.checkpoints import untrained
from skinkd.data.sheets import png
from skinkd.data.sheets import write as write_png
from skinkd.errors import UserError, check_choice, check_range, check_whole, nearest
from skinkd.explanation.cases import input_cases, run_cases
from skinkd.explanation.explain import Explained, explain_all
from skinkd.explanation.maps import METHODS
from skinkd.explanation.outputs import outputs_of
from skinkd.explanation.report import print_summary
from skinkd.explanation.sheets import save_maps, sheets
from skinkd.explanation.summary import flat, not_learned, summarise
from skinkd.inference.trained import Trained, open_trained
from skinkd.runs.folder import RunFolder

FOLDER = "explanations"
"""Name of the folder of explanations in a run folder."""
TABLE = "scores.csv"


def explain(settings: DictConfig) -> None:
    """Explain the images of ``run`` or ``input`` and write maps, contact sheets, scores.csv and scores.json, in this order.

    Raises:
        UserError: a setting is wrong, the run or an image cannot be read, or there is no image.
    """
    config: dict[str, Any] = OmegaConf.to_container(settings, resolve=True)  # type: ignore[assignment]
    check_settings(config)
    trained = open_trained(config["run"])
    chosen = _class_number(config["target"], trained)
    place = output_folder(config, trained)
    material = run_cases(trained, config) if config["input"] is None else input_cases(trained, config)
    torch.manual_seed(config["seed"])
    fresh = untrained(trained.card)
    explained, table = explain_all(
        trained.network, fresh, material, image_size=trained.image_size, chosen=chosen, settings=config
    )
    summary = summarise(table, config)
    folder = RunFolder(place)
    write(folder, explained, table, summary, trained=trained, config=config)
    outputs = outputs_of(trained.network, image_size=trained.image_size, cells=config["layer_cells"])
    print_summary(summary, list(outputs), folder=folder.path, settings=config)


def check_settings(config: dict[str, Any]) -> None:
    """Raise UserError for the first setting that cannot be used."""
    for key in ("methods", "exit_methods"):
        for name in config[key]:
            check_choice(key, name, METHODS)
    if not config["methods"]:
        raise UserError(f"methods=[] names no method; give one or more of {', '.join(METHODS)}")
    for key in ("images", "layer_cells", "batch"):
        check_whole(key, config[key], 1)
    check_whole("seed", config["seed"], 0)
    for key, name, low in (
        ("scorecam", "channels", 1),
        ("ig", "steps", 1),
        ("lime", "samples", 2),
        ("lime", "superpixels", 2),
        ("faithfulness", "steps", 2),
        ("sanity", "images", 1),
        ("sanity", "levels", 1),
        ("sheet", "rows", 1),
        ("evaluation", "bootstrap_replicates", 1),
    ):
        check_whole(f"{key}.{name}", config[key][name], low)
    for key, name in (("occlusion", "window"), ("occlusion", "stride"), ("off_centre", "crop")):
        check_range(f"{key}.{name}", config[key][name], 0.01, 1)
    check_range("blur", config["blur"], 0.001)
    if config["occlusion"]["stride"] > config["occlusion"]["window"]:
        raise UserError(
            f"occlusion.stride={config['occlusion']['stride']} is above occlusion.window={config['occlusion']['window']}, so "
            "some pixels are never covered; give a smaller stride"
        )


def _class_number(target: str, trained: Trained) -> int | None:
    if target == "prediction":
        return None
    if target not in trained.classes:
        raise UserError(
            f"target={target} is no class of this run{nearest(str(target), [*trained.classes, 'prediction'])}"
        )
    return trained.classes.index(target)


def output_folder(config: dict[str, Any], trained: Trained) -> Path:
    """Return the folder to write to: an earlier explanation in it is replaced.

    Raises:
        UserError: ``out`` holds anything else, or the network is a checkpoint without a run folder and there is no ``out``.
    """
    if config["out"] is not None:
        folder = Path(config["out"]).expanduser()
        if folder.exists() and not (folder / TABLE).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UserError(f"out={folder} is a file, or a folder with other files; give a new folder")
        return folder
    if trained.run is None:
        raise UserError(f"run={config['run']} is not in a run folder; say where to write with out=<folder>")
    names = [FOLDER]
    if config["input"] is not None:
        names += ["inputs", Path(config["input"]).expanduser().resolve().stem]
    for part in ("maps", "sheets"):
        trained.run.inside(*names, part)
    return trained.run.inside(*names)


def write(
    folder: RunFolder,
    explained: list[Explained],
    table: pd.DataFrame,
    summary: pd.DataFrame,
    *,
    trained: Trained,
    config: dict[str, Any],
) -> None:
    """Write maps/, sheets/, config.yaml, scores.csv and, last, scores.json.

    Raises:
        UserError: the folder cannot be written.
    """
    marked = not_learned(summary)
    outputs = outputs_of(trained.network, image_size=trained.image_size, cells=config["layer_cells"])
    try:
        (folder.path / "scores.json").unlink(missing_ok=True)  # it marks a whole folder
        for earlier in ("maps", "sheets"):
            if (folder.path / TABLE).is_file() and (folder.path / earlier).is_dir():
                shutil.rmtree(folder.path / earlier)
        save_maps(explained, folder.path / "maps")
        for output in outputs:
            pages = sheets(
                explained, output=output.name, classes=trained.classes, marked=marked, settings=config["sheet"]
            )
            for name, figure in pages:
                write_png(folder.path / "sheets" / output.name / f"{name}.png", png(figure))
        folder.write_text("config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
        named = dict(enumerate(trained.classes))
        folder.write_csv(
            TABLE,
            table.assign(**{key: table[key].map(named) for key in ("label", "prediction", "explained")}),
        )
        layers = {
            f"{output.name}/layer": f"{output.layer.name} ({output.layer.cells[0]}×{output.layer.cells[1]})"
            for output in outputs
            if output.layer is not None
        }
        folder.write_json("scores.json", {**layers, **flat(summary)})
    except OSError as error:
        raise UserError(
            f"{error.filename or folder.path} cannot be written ({error.strerror}); give another folder with out=<folder>"
        ) from error
