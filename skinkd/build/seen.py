"""Finds the images of a dataset that a run was trained or selected on: by name, by path and by content."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from skinkd.build.construct import build
from skinkd.config.paths import place_below
from skinkd.config.ranges import check_ranges
from skinkd.config.resolve import read_config
from skinkd.config.stored_paths import WRITTEN, inside
from skinkd.config.targets import check_targets
from skinkd.data.hashing import image_hashes
from skinkd.data.near import near_pairs
from skinkd.data.source import archive_of_ids, source_of
from skinkd.data.splits import protocol_images
from skinkd.data.table import ImageTable
from skinkd.errors import UserError, check_range


class Seen(NamedTuple):
    """Which of the data's N images a run was trained or selected on.

    Attributes:
        known: (N,) bool, found by image id or lesion where these mean the same in both datasets, or by path.
        copies: (N,) bool, further images that are near-copies, or share a lesion with a near-copy; None: not compared.
        gap: why content was not compared with every image of the run; "" if it was.
    """

    known: np.ndarray
    copies: np.ndarray | None
    gap: str


def run_config(checkpoint: Path) -> dict[str, Any] | None:
    """Return the configuration of the run folder that holds the checkpoint; None for a checkpoint outside a run folder."""
    file = checkpoint.parent.parent / "config.yaml"
    if checkpoint.parent.name != "checkpoints" or not file.is_file():
        return None
    config = read_config(file)
    table = config.get("data", {}).get("table") if isinstance(config.get("data"), dict) else None
    groups = all(isinstance(config.get(name), dict) for name in ("paths", "backbone", "method", "evaluation"))
    if not (isinstance(table, dict) and isinstance(table.get("_target_"), str) and groups and "protocol" in config):
        raise UserError(f"{file} is not the configuration of a run; restore the run folder's own")
    for name in ("name", "eval_batch_size"):
        if name not in config["data"]:
            raise UserError(f"{file} has no data.{name}; restore the run folder's own")
    try:
        check_ranges({name: config[name] for name in ("seed", "data", "evaluation") if name in config})
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return config


def own_images(
    run: dict[str, Any] | None, card: dict[str, Any], paths: Mapping[str, Any]
) -> tuple[pd.DataFrame | None, str]:
    """Read the run's image table again, and add a column ``seen``: the run has seen the image or its lesion.

    Returns:
        The rows, None if they cannot be read; and in words what is missing, "" if nothing is.
    """
    if run is None:
        return None, "there is no config.yaml next to its checkpoint to say where they are"
    places: list[dict[str, Any]] = [run["data"]["table"]]
    if archive_of_ids(places[0]):  # for other data, the same path below another folder may hold different images
        places.append(_below(places[0], run["paths"], paths))
    source = source_of(places[0])
    if source is not None and source.generated:
        places = places[-1:]  # the first place would generate the images again where the run's outputs once were
    problem = ""
    for place in places:
        settings = _harmless(place, run["paths"], paths)
        if source is not None and source.generated and not inside(settings.get("root"), paths):
            problem = f"{settings.get('root')} is outside the folders of this command"
            continue
        check_targets(settings, place="data.table")
        try:
            frame = protocol_images(build(settings, place="data.table"), run["protocol"]).frame
        except Exception as error:  # whatever a loader raises: the data of another run may be gone
            problem = problem or str(error).split("; ")[0]
            continue
        images = _names(card["images"])
        missing = len(images - set(frame["image_id"]))
        gap = f"{missing} of the {len(images)} are no longer in its data" if missing else ""
        return frame.assign(seen=_named(frame, card)), gap
    return None, f"its data cannot be read ({problem})"


def _harmless(table: dict[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a stored table that leave out damaged images, and write below the folders of this command."""
    settings = table | ({"on_bad_image": "skip"} if "on_bad_image" in table else {})
    for name in WRITTEN:
        if name in settings:
            moved = _below(settings[name], old, new)
            settings[name] = moved if inside(moved, new) else str(Path(new["cache_dir"]) / "of_other_runs")
    return settings


def _names(parts: Mapping[str, Sequence[str]]) -> set[str]:
    return {name for part in parts.values() for name in part}


def _named(frame: pd.DataFrame, card: dict[str, Any]) -> np.ndarray:
    """Return which rows the card of a run lists, by image or by group, (N,) bool."""
    by_image, by_group = (
        frame[column].isin(_names(card[key])) for column, key in (("image_id", "images"), ("group", "groups"))
    )
    return (by_image | by_group).to_numpy(bool)


def _below(node: Any, old: Mapping[str, Any], new: Mapping[str, Any]) -> Any:
    """Return the settings with every path below an ``old`` folder moved to the ``new`` folder of the same name."""
    if isinstance(node, dict):
        return {key: _below(value, old, new) for key, value in node.items()}
    place = place_below(node, {name: path for name, path in old.items() if name in new})
    return node if place is None else str(new[place[0]]) + place[1]


def seen_images(table: ImageTable, card: dict[str, Any], run: dict[str, Any] | None, config: dict[str, Any]) -> Seen:
    """Find the images that the run has seen: by name where both datasets share their names, by path, and by content.

    Args:
        table: the images to score.
        card: of the run's checkpoint.
        run: the run's configuration; None if it is unknown: then only names are compared, as if both datasets shared them.
        config: of this evaluation.
    """
    frame = table.frame
    run_images, gap = own_images(run, card, config["paths"])
    archive = archive_of_ids(config["data"]["table"])
    known = np.zeros(len(frame), bool)
    if run is None or (archive is not None and archive == archive_of_ids(run["data"]["table"])):
        known |= _named(frame, card)
    if run_images is not None:
        seen_paths = {os.path.realpath(path) for path in run_images["path"][run_images["seen"]]}
        known |= np.array([os.path.realpath(path) in seen_paths for path in frame["path"]])
    bits, memory = config["data"]["near_duplicate_bits"], Path(config["paths"]["cache_dir"])
    if bits is None:
        return Seen(known, None, "data.near_duplicate_bits=null")
    check_range("data.near_duplicate_bits", bits, 0, 256)
    if run_images is None:
        return Seen(known, None, gap)
    # hashes of the whole table, as in training's audit: the cache keeps them by table
    run_hashes = image_hashes(run_images["path"].tolist(), memory=memory)[run_images["seen"].to_numpy()]
    near = near_pairs(image_hashes(frame["path"].tolist(), memory=memory), distance=bits, others=run_hashes)[:, 0]
    copies = frame["group"].isin(frame["group"].iloc[np.unique(near)]).to_numpy(bool)
    return Seen(known, copies & ~known, gap)
