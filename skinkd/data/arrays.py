"""Images inside a larger file, and the paths that name them.

``<file>#offset,height,width,channels`` is an image's pixels in an array file. Training memory-maps such a file, so that all
loading processes and jobs of a machine share its pages. ``<file>.hdf5#offset,length,name`` is an image file that is a range of
bytes of a larger file.
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skinkd.errors import UserError

_MARK = ".hdf5#"
_IN_MEMORY: dict[str, np.ndarray] = {}


def image_path(file: str | Path, offset: int, height: int, width: int, channels: int) -> str:
    """Return the path of an image whose ``height * width * channels`` bytes begin at ``offset`` of an array."""
    return f"{file}#{offset},{height},{width},{channels}"


def split_path(path: str) -> tuple[str, tuple[int, int, int, int]] | None:
    """Return the array file and (offset, height, width, channels) that a path names; None for a plain file."""
    file, mark, place = path.rpartition("#")
    numbers = place.split(",")
    if not mark or len(numbers) != 4 or not all(number.isdigit() for number in numbers):
        return None
    offset, height, width, channels = map(int, numbers)
    return file, (offset, height, width, channels)


class Range(NamedTuple):
    """An image file inside another file."""

    file: str
    offset: int
    length: int


def range_path(file: str | Path, offset: int, length: int, name: str) -> str:
    """Return the path of an image file that is ``length`` bytes of an HDF5 file, from ``offset`` on.

    ``name`` is for messages. The file's name ends in ``.hdf5``.
    """
    return f"{file}#{offset},{length},{name}"


def range_of(path: str) -> Range | None:
    """Return the range of bytes that a path names; None for a plain file and for pixels in an array file."""
    before, mark, place = path.rpartition(_MARK)
    if not mark:
        return None
    numbers = place.split(",", 2)
    if len(numbers) != 3 or not all(number.isdigit() for number in numbers[:2]):
        return None
    return Range(before + _MARK[:-1], int(numbers[0]), int(numbers[1]))


def file_of(path: str) -> str:
    """Return the file that has to be opened to read an image."""
    if "#" not in path:
        return path
    pixels, bytes_ = split_path(path), range_of(path)
    return pixels[0] if pixels else bytes_.file if bytes_ else path


def read_array_image(file: str, place: tuple[int, int, int, int]) -> np.ndarray:
    """Return a copy of an image in an array file, uint8 RGB (height, width, 3); one grey channel becomes three.

    Raises:
        UserError: the file is missing, cannot be mapped, or is shorter than it should be.
    """
    offset, height, width, channels = place
    array = _IN_MEMORY[file] if file in _IN_MEMORY else _open(file)
    pixels = array[offset : offset + height * width * channels]
    if len(pixels) < height * width * channels:
        raise UserError(f"{file} is truncated; remove it, and it will be made again")
    image = np.asarray(pixels).reshape(height, width, channels)
    return np.repeat(image, 3, axis=2) if channels == 1 else image.copy()


def keep_in_memory(file: str | Path) -> None:
    """Read an array file into memory, unless it is there; processes that are forked afterwards share it."""
    if str(file) not in _IN_MEMORY:
        _IN_MEMORY[str(file)] = np.array(_open(str(file)))


@lru_cache(maxsize=16)
def _open(file: str) -> np.ndarray:
    """Map a ``.npy`` file of uint8, or raw bytes, as one flat array."""
    try:
        if file.endswith(".npy"):
            return np.load(file, mmap_mode="r").reshape(-1)
        return np.memmap(file, np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be opened ({error}); remove it, and it will be made again") from error
