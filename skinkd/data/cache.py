"""A cache of decoded and shrunk images: one array on disk, which training memory-maps.

A cache is a folder ``images-<key>`` of ``pixels.bin`` (the images' bytes, one after the other) and
``index.json``. The key is a digest of the settings and of the images' ids and bytes. So the same images share a
cache wherever they lie, and a changed image needs a new cache.
"""

import hashlib
import json
import os
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
from tqdm import tqdm

from skinkd.data.arrays import image_path, keep_in_memory
from skinkd.data.files import read_image
from skinkd.data.hashing import file_digests
from skinkd.data.table import ImageTable
from skinkd.errors import check_choice, check_whole
from skinkd.runs.files import Lock

VERSION = 1
"""Part of the key: raise it with every change that alters a cached byte."""

MODES = ("off", "disk", "ram")
CHUNK = 256  # images decoded at a time, held in memory until written
_BLOCK = 1 << 24


def cached(table: ImageTable, *, mode: str, size: int | None, image_size: int, folder: Path) -> ImageTable:
    """Return the table with paths into a cache, which is made if it does not exist; "off" changes nothing.

    Args:
        table: the images.
        mode: "off"; "disk": memory-mapped; "ram": read into memory, shared by processes forked afterwards.
        size: see :func:`prepare`; at least ``image_size``.
        image_size: the image size of training; a cache must not hold smaller images.
        folder: the folder of all caches.

    Raises:
        UserError: an unknown mode, a size below ``image_size``, or an image that cannot be read.
    """
    if check_choice("data.cache", mode, MODES) == "off":
        return table
    if size is not None:
        check_whole("data.cache_size", size, image_size)
    cache = prepare(table, size=size, folder=folder)
    pixels = cache / "pixels.bin"
    if mode == "ram":
        keep_in_memory(pixels)
    shapes = np.array(json.loads((cache / "index.json").read_text())["shapes"], np.int64)
    offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1) * 3)])
    paths = [
        image_path(pixels, int(offset), int(height), int(width), 3)
        for offset, (height, width) in zip(offsets[:-1], shapes, strict=True)
    ]
    return ImageTable(table.name, table.classes, table.frame.assign(path=paths))


def prepare(table: ImageTable, *, size: int | None, folder: Path) -> Path:
    """Return the cache's folder; if it is absent or damaged, build it on all cores and show a progress bar.

    Images whose shorter side exceeds ``size`` are shrunk to it; ``size`` of None shrinks none. Shrinking averages areas,
    as evaluation does: with ``size`` = ``image_size`` evaluation sees the same bytes as without a cache. One process
    builds while the others wait for a lock. The cache gets its name only when it is complete, so that a killed process
    leaves nothing that looks like a cache.

    Raises:
        UserError: an image cannot be read.
    """
    if size is not None:
        check_whole("data.cache_size", size, 1)
    folder = folder.expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    paths = table.frame["path"].tolist()
    digests = file_digests(paths, memory=folder)
    text = "\n".join([f"{VERSION} {size}", *table.frame["image_id"]]).encode() + b"\n".join(digests.tolist())
    target = folder / f"images-{hashlib.sha256(text).hexdigest()[:24]}"
    with Lock(folder / f".{target.name}.lock"):
        if is_whole(target, len(table)):
            return target
        building = folder / f".{target.name}.building"  # what is there is left by a process that was killed
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
        building.mkdir()
        try:
            _build(paths, size, building)
            os.replace(building, target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return target


def is_whole(cache: Path, images: int) -> bool:
    """Whether a cache holds this number of images, with the length and the checksum that its index states."""
    try:
        index: dict[str, Any] = json.loads((cache / "index.json").read_text())
        shapes = index["shapes"]
        length = sum(3 * height * width for height, width in shapes)
        pixels = cache / "pixels.bin"
        if len(shapes) != images or pixels.stat().st_size != length:
            return False
        checksum = 0
        with pixels.open("rb") as file:
            while block := file.read(_BLOCK):
                checksum = zlib.crc32(block, checksum)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return checksum == index["crc32"]


def _build(paths: list[str], size: int | None, folder: Path) -> None:
    shapes: list[tuple[int, int]] = []
    checksum = 0
    shrink = None if size is None else _shrinker(size)

    def read(path: str) -> np.ndarray:
        image = read_image(path)
        return shrink(image) if shrink is not None else image

    with (
        (folder / "pixels.bin").open("wb") as file,
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(paths), desc="preparing images", unit="image", disable=None) as bar,
    ):
        for start in range(0, len(paths), CHUNK):
            for image in pool.map(read, paths[start : start + CHUNK]):
                data = np.ascontiguousarray(image).tobytes()
                file.write(data)
                checksum = zlib.crc32(data, checksum)
                shapes.append(image.shape[:2])
                bar.update()
        file.flush()
        os.fsync(file.fileno())
    (folder / "index.json").write_text(json.dumps({"crc32": checksum, "shapes": shapes}))


def _shrinker(size: int) -> Any:
    transform = A.SmallestMaxSize(max_size=size, interpolation=cv2.INTER_LINEAR, area_for_downscale="image", p=1.0)

    def shrink(image: np.ndarray) -> np.ndarray:
        return image if min(image.shape[:2]) <= size else transform(image=image)["image"]

    return shrink
