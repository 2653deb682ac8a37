"""The images to explain: of a run's test part, or the user's own, with masks where they are known."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from skinkd.build.seen import own_images
from skinkd.data.decode import decode_file
from skinkd.data.files import find_images
from skinkd.data.masks import Masked, prepared, read_mask, read_masked
from skinkd.data.source import Source, source_of
from skinkd.data.transforms import eval_pipeline
from skinkd.errors import UserError
from skinkd.explanation.scores import Map
from skinkd.inference.trained import Trained


class Case(NamedTuple):
    """An image to explain.

    Attributes:
        image_id: its name.
        group: its lesion; "" for the user's own images.
        label: index of its class; None: unknown.
        standard: the image as the network sees it, (S, S), with its masks.
        moved: a crop in which the lesion is off the centre, (S, S); None: there is no mask, or no such crop.
    """

    image_id: str
    group: str
    label: int | None
    standard: Masked
    moved: Masked | None


class Material(NamedTuple):
    """The images to explain, and the mean mask of the training images, (S, S); None: they have no masks."""

    cases: list[Case]
    mean_mask: Map | None


def run_cases(trained: Trained, settings: Mapping[str, Any]) -> Material:
    """Return images of the run's test part: the same number of each class, as far as there are so many.

    Args:
        trained: with its run folder.
        settings: of ``conf/explain.yaml``.

    Raises:
        UserError: there is no run folder, its images cannot be read, or none is left.
    """
    if trained.config is None:
        raise UserError(
            f"run={settings['run']} is a checkpoint without its run folder, so its test images are not known; give the run "
            "folder, or your own images with input=<file or folder>"
        )
    frame, gap = own_images(trained.config, trained.card, settings["paths"])
    if frame is None or frame["seen"].all():
        raise UserError(
            f"the test images of run={settings['run']} are not there: {gap or 'the run has seen all images of its data'}; "
            "name the folder of the datasets in SKINKD_DATA_DIR, or give your own images with input=<file or folder>"
        )
    source = source_of(trained.config["data"]["table"])
    rows = evenly(frame[~frame["seen"]], settings["images"], seed=settings["seed"])
    size = trained.image_size
    cases = []
    for number, row in enumerate(rows.itertuples()):
        masked = read_masked(str(row.path), source)
        moved = off_centre(masked, share=settings["off_centre"]["crop"], seed=(settings["seed"], number))
        cases.append(
            Case(
                str(row.image_id),
                str(row.group),
                int(row.label),  # type: ignore[arg-type]
                prepared(masked, eval_pipeline(image_size=size)),
                None if moved is None else prepared(moved, eval_pipeline(image_size=size)),
            )
        )
    return Material(cases, mean_mask(frame[frame["seen"]], source, size=size, settings=settings))


def input_cases(trained: Trained, settings: Mapping[str, Any]) -> Material:
    """Return the user's own images: a file, or all images directly in a folder.

    Raises:
        UserError: there is no image, or one of them cannot be read.
    """
    place = Path(settings["input"]).expanduser()
    found = {place.stem: str(place)} if place.is_file() else find_images(place, [""])
    if not found:
        raise UserError(f"input={settings['input']} is neither an image nor a folder with images; give one of these")
    pipeline, most = eval_pipeline(image_size=trained.image_size), settings["max_pixels"]
    return Material(
        [
            Case(name, "", None, prepared(Masked(decode_file(Path(path), max_pixels=most), None, {}), pipeline), None)
            for name, path in sorted(found.items())
        ],
        None,
    )


def evenly(frame: pd.DataFrame, images: int, *, seed: int) -> pd.DataFrame:
    """Return ``images`` rows, drawn in turn from each class in a drawn order, so that rare classes are there too."""
    rng = np.random.default_rng(seed)
    drawn = frame.iloc[rng.permutation(len(frame))]
    turn = drawn.groupby("label").cumcount()
    return drawn.iloc[np.lexsort((drawn["label"], turn))[:images]].sort_values("image_id")


def off_centre(masked: Masked, *, share: float, seed: Sequence[int]) -> Masked | None:
    """Return a square crop with the whole lesion, moved as far towards one of its corners as the image allows.

    So a map of the centre loses what it has by the photographer's habit of placing the lesion there. Ours.

    Args:
        masked: an image with its masks.
        share: side of the crop, in shorter sides of the image.
        seed: of the corner.

    Returns:
        None if the lesion is unknown, absent, or larger than the crop.
    """
    if masked.lesion is None or not masked.lesion.any():
        return None
    height, width = masked.lesion.shape
    side = round(share * min(height, width))
    towards = np.random.default_rng(seed).integers(2, size=2)
    start = []
    for axis, length, high in ((1, height, towards[0]), (0, width, towards[1])):
        at = np.flatnonzero(masked.lesion.any(axis=axis))
        least, most = max(0, at[-1] + 1 - side), min(length - side, at[0])
        if least > most:
            return None
        start.append(int(most if high else least))
    box = (slice(start[0], start[0] + side), slice(start[1], start[1] + side))
    return Masked(
        np.ascontiguousarray(masked.image[box]),
        np.ascontiguousarray(masked.lesion[box]),
        {kind: np.ascontiguousarray(mask[box]) for kind, mask in masked.artefacts.items()},
    )


def mean_mask(frame: pd.DataFrame, source: Source | None, *, size: int, settings: Mapping[str, Any]) -> Map | None:
    """Return the mean mask of ``nulls.mean_mask_images`` drawn training images, (S, S); None if they have no masks."""
    if source is None or source.lesion_mask is None or frame.empty:
        return None
    rng, pipeline = np.random.default_rng(settings["seed"]), eval_pipeline(image_size=size)
    total, n = np.zeros((size, size)), 0
    for place in rng.permutation(len(frame))[: settings["nulls"]["mean_mask_images"]]:
        path = frame["path"].iloc[place]
        file = source.lesion_mask(Path(path))
        if file is not None:
            mask = read_mask(file, None)
            done = prepared(Masked(np.zeros((*mask.shape, 3), np.uint8), mask, {}), pipeline)
            total, n = total + (0 if done.lesion is None else done.lesion), n + 1
    return total / n if n else None
