"""Images in an array file; a path that ends in ``#offset,height,width,channels`` names one of them.

Training memory-maps such a file, so that all loading processes and jobs of a machine share its pages.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np

from skinkd.errors import UserError

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
