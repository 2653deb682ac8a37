"""The embedded dataset: synthetic lesions in a folder of HAM10000's layout, read as HAM10000 is.

Ours; it needs no download and imitates what makes HAM10000 hard to use well: its class imbalance, several
photographs of a lesion (so that a split by image leaks), artefacts that say nothing about the class, and
classes that overlap. It says nothing about real skin: use it to see that everything works, not to compare
methods for publication.
"""

import csv
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator, SeedSequence

from skinkd.data.ham10000_folder import read_folder
from skinkd.data.source import Source
from skinkd.data.synthetic_lesions import draw_lesion, photograph
from skinkd.data.synthetic_looks import LOOKS, blend
from skinkd.data.table import ImageTable
from skinkd.errors import UserError, check_range

FORMAT_VERSION = 1
"""Part of the folder's name: raise it whenever a change alters a byte of what is generated."""

METADATA = "HAM10000_metadata.csv"
PARTS = ("HAM10000_images_part_1", "HAM10000_images_part_2")
MASKS = "HAM10000_segmentations_lesion_tschandl"
COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "dataset")

# so that a split grouped by lesion can have every class in every part
MIN_LESIONS, MIN_IMAGES_OF_CLASS = 9, 12
MIN_IMAGES = len(LOOKS) * MIN_IMAGES_OF_CLASS
MIN_SIDE = 32
JPEG_QUALITY = 92
STALE_SECONDS = 24 * 3600


class _Class(NamedTuple):
    """HAM10000's own figures for one class, and what it is confused with here."""

    images: int
    lesions: int
    age: float
    dx_types: tuple[str, ...]
    resembles: tuple[str, ...]


CLASSES: dict[str, _Class] = {
    "akiec": _Class(327, 228, 66, ("histo",), ("bcc", "bkl")),
    "bcc": _Class(514, 327, 66, ("histo",), ("akiec", "mel", "vasc")),
    "bkl": _Class(1099, 727, 63, ("histo", "consensus", "confocal"), ("mel", "nv", "akiec")),
    "df": _Class(115, 73, 52, ("histo", "consensus"), ("nv", "bcc")),
    "mel": _Class(1113, 614, 60, ("histo",), ("nv", "bkl")),
    "nv": _Class(6705, 5403, 46, ("histo", "follow_up", "consensus"), ("mel", "bkl", "df")),
    "vasc": _Class(142, 98, 51, ("histo", "consensus"), ("bcc", "mel")),
}
OVERLAP = 0.75  # the largest weight of the class a lesion resembles; above 0.5 it looks more like that one
LOCALIZATIONS = (
    "back",
    "lower extremity",
    "trunk",
    "upper extremity",
    "abdomen",
    "face",
    "chest",
    "foot",
    "neck",
)


SOURCE = Source(licence="none of others", ids="synthetic {images} {height} {width} {seed}", generated=True)


def load_synthetic(
    root: str | Path, *, images: int, height: int, width: int, seed: int, on_bad_image: str
) -> ImageTable:
    """Return the table of the embedded dataset, which is made under ``root`` if it is not there yet."""
    folder = generate(Path(root).expanduser(), images=images, image_size=(height, width), seed=seed)
    return ImageTable("synthetic", tuple(CLASSES), read_folder(folder, on_bad_image=on_bad_image).frame)


def generate(root: Path, *, images: int, image_size: Sequence[int], seed: int) -> Path:
    """Return the folder of the synthetic dataset under ``root``, generating it first if it is not there.

    The folder's bytes depend on the arguments, ``FORMAT_VERSION`` and the versions of numpy and OpenCV only.
    It appears whole or not at all, and any number of processes may ask for it at once.

    Args:
        root: folder that holds the generated datasets; made if absent.
        images: number of photographs, at least ``MIN_IMAGES``. Classes follow HAM10000's shares, but none has
            fewer than ``MIN_IMAGES_OF_CLASS`` photographs or ``MIN_LESIONS`` lesions.
        image_size: (height, width) in pixels, each at least ``MIN_SIDE``.
        seed: at least 0.

    Raises:
        UserError: an argument is out of range, or the folder cannot be written.
    """
    if len(image_size) != 2:
        raise UserError(f"image_size={list(image_size)} of the synthetic dataset must be two numbers, height and width")
    height, width = image_size
    check_range("images of the synthetic dataset", images, low=MIN_IMAGES)
    check_range("image height of the synthetic dataset", height, low=MIN_SIDE)
    check_range("image width of the synthetic dataset", width, low=MIN_SIDE)
    check_range("seed of the synthetic dataset", seed, low=0)
    name = f"synthetic_{images}x{height}x{width}_seed{seed}_v{FORMAT_VERSION}"
    folder = Path(root) / name
    if (folder / METADATA).is_file():
        return folder
    unfinished = Path(root) / f".{name}.{uuid.uuid4().hex}.unfinished"
    try:
        _remove_stale(Path(root))
        unfinished.mkdir(parents=True)
        _write(unfinished, images=images, image_size=(height, width), seed=seed)
        try:
            os.replace(unfinished, folder)
        except OSError:
            # another process was first, and its bytes are the same; anything else in the way is an error
            if not (folder / METADATA).is_file():
                raise
    except OSError as error:
        raise UserError(
            f"the synthetic dataset cannot be written to {folder}: {error.strerror or error}; "
            "clear that path, free space, or choose another folder for the data"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def counts(images: int, *, seed: int) -> dict[str, list[int]]:
    """Return for each class the number of photographs of each of its lesions; they add up to ``images``."""
    total = sum(figures.images for figures in CLASSES.values())
    photographs = {
        name: max(MIN_IMAGES_OF_CLASS, round(images * figures.images / total))
        for name, figures in CLASSES.items()
        if name != "nv"
    }
    photographs["nv"] = images - sum(photographs.values())
    table = {}
    for label, (name, figures) in enumerate(CLASSES.items()):
        rng = _rng(seed, label)
        lesions = max(MIN_LESIONS, round(photographs[name] * figures.lesions / figures.images))
        per_lesion = np.ones(lesions, dtype=int)
        for lesion in rng.permutation(lesions):
            # of HAM10000's lesions with several photographs about a quarter have more than two
            more = min(2 if rng.random() < 0.27 else 1, photographs[name] - per_lesion.sum())
            per_lesion[lesion] += more
        table[name] = per_lesion.tolist()
    return table


def _rng(seed: int, *key: int) -> Generator:
    """One independent stream for each purpose, so that no lesion depends on the order of the others."""
    return np.random.default_rng(SeedSequence(seed, spawn_key=key))


def _remove_stale(root: Path) -> None:
    """Remove what a killed process left a day ago or more: nobody can still be writing there."""
    for left in root.glob(".synthetic_*.unfinished"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _write(folder: Path, *, images: int, image_size: tuple[int, int], seed: int) -> None:
    for part in (*PARTS, MASKS):
        (folder / part).mkdir()
    table = counts(images, seed=seed)
    lesions = [(label, i) for label, per_lesion in enumerate(table.values()) for i in range(len(per_lesion))]
    shuffle = _rng(seed, len(CLASSES))
    # numbers say nothing about the class, as in HAM10000
    lesion_numbers = iter(shuffle.permutation(len(lesions)) + 1)
    image_numbers = iter(shuffle.permutation(images) + 1)
    rows = []
    for label, i in lesions:
        name = list(CLASSES)[label]
        figures = CLASSES[name]
        rng = _rng(seed, label, i)
        resembled = LOOKS[figures.resembles[rng.integers(len(figures.resembles))]]
        look = blend(LOOKS[name], resembled, OVERLAP * float(rng.beta(1, 2)))
        lesion = draw_lesion(look, image_size=image_size, rng=rng)
        person = _person(figures, rng)
        lesion_id = f"SYNL_{next(lesion_numbers):07d}"
        for k in range(table[name][i]):
            number = next(image_numbers)
            image_id = f"SYN_{number:07d}"
            image, mask = photograph(lesion, image_size=image_size, rng=_rng(seed, label, i, k))
            part = PARTS[0] if number <= (images + 1) // 2 else PARTS[1]
            jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
            # write_bytes, not imwrite: a full disk must raise, and any path must do
            (folder / part / f"{image_id}.jpg").write_bytes(jpeg.tobytes())
            (folder / MASKS / f"{image_id}_segmentation.png").write_bytes(cv2.imencode(".png", mask)[1].tobytes())
            rows.append((lesion_id, image_id, name, *person, "synthetic"))
    with open(folder / METADATA, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(sorted(rows))


def _person(figures: _Class, rng: Generator) -> tuple[str, str, str, str]:
    """Its dx_type, age, sex and localization; age and sex are missing now and then, as in HAM10000."""
    age = int(np.clip(round(rng.normal(figures.age, 14) / 5) * 5, 0, 85))
    known = rng.random() > 0.006
    return (
        figures.dx_types[rng.integers(len(figures.dx_types))],
        str(age) if known else "",
        ("male" if rng.random() < 0.54 else "female") if known else "unknown",
        LOCALIZATIONS[rng.integers(len(LOCALIZATIONS))],
    )
