"""Image files: checks that they are whole, and reading of their pixels."""

import errno
import io
import logging
import os
import stat
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from skinkd.data.arrays import range_of, read_array_image, split_path
from skinkd.data.file_ends import HEAD, JPEG_END, JPEG_START, PNG_END, PNG_START, TAIL, begins_well, jpeg_ends
from skinkd.data.table import listing
from skinkd.data.tiff import tiff_colour_problem
from skinkd.errors import UserError, check_choice, check_whole

log = logging.getLogger(__name__)

CHUNK = 256  # files per thread task
THREADS = 16  # they wait for a disk or a network drive more than they compute
SLOW = 1e-4  # seconds; to check a file that the system has in memory takes about 1.5e-5

MAX_PIXELS = 100_000_000
"""Pixels of the largest image that is decoded where ``data.max_pixels`` says nothing: 300 MB of memory."""
_LIMIT = "SKINKD_MAX_PIXELS"  # in the environment, so that it reaches the loading processes

_OTHER_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def find_images(root: Path, folders: Sequence[str]) -> dict[str, str]:
    """Return name without ending -> path for the images in ``folders`` of ``root``.

    Capital letters in a folder's name do not matter, and a folder may hold one of the same name, as some archives unpack.
    Of two files of one name, the file in the earlier folder is taken; in one folder, the file whose ending comes first
    in ``IMAGE_ENDINGS``.
    """
    found: dict[str, str] = {}
    for name in folders:
        for folder in _folders_named(root, name):
            images: list[tuple[int, str, str]] = []
            for entry in os.scandir(folder):
                stem, ending = os.path.splitext(entry.name)
                if ending.lower() in IMAGE_ENDINGS and not entry.name.startswith("."):
                    images.append((IMAGE_ENDINGS.index(ending.lower()), stem, entry.path))
            for _, stem, path in sorted(images):
                found.setdefault(stem, path)
    return found


def _folders_named(root: Path, name: str) -> list[Path]:
    """Return the folder ``name`` of ``root``, then those that differ in capital letters; of each, that inside it too."""
    if not name:
        return [root] if root.is_dir() else []
    places = [root]
    for part in Path(name).parts:
        places = [found for place in places for found in _alike(place, part)]
    last = Path(name).name
    return [found for place in places for found in (place, *_alike(place, last))]


def _alike(folder: Path, name: str) -> list[Path]:
    if not folder.is_dir():
        return []
    alike = [entry.name for entry in os.scandir(folder) if entry.name.lower() == name.lower() and entry.is_dir()]
    return [folder / found for found in sorted(alike, key=lambda found: (found != name, found))]


def limit_pixels(pixels: int) -> None:
    """Decode no image of more pixels from now on, also in the processes that this one starts.

    Raises:
        UserError: the limit is no whole number above 0.
    """
    check_whole("data.max_pixels", pixels, 1)
    os.environ[_LIMIT] = str(pixels)


def read_regular(path: str | Path) -> bytes:
    """Return the bytes of an image file, or of the range of a file that ``path`` names (:mod:`skinkd.data.arrays`).

    Raises:
        OSError: the file cannot be read, or is a pipe or a device, which may give bytes without end, or none.
    """
    descriptor, first, size = _open_range(path)
    with os.fdopen(descriptor, "rb") as file:
        file.seek(first)
        return file.read(size)


def _open_range(path: str | Path) -> tuple[int, int, int]:
    """Return an image file's descriptor, and the first byte and the number of bytes of the image in it."""
    place = range_of(str(path))
    descriptor = open_regular(path if place is None else place.file)
    size = os.fstat(descriptor).st_size
    first, length = (0, size) if place is None else (min(place.offset, size), place.length)
    return descriptor, first, min(length, size - first)


def open_regular(path: str | Path) -> int:
    """Return the descriptor of a file that is opened for reading.

    Raises:
        OSError: as :func:`read_regular`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # to open a pipe is to wait for its writer
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"it is {_OTHER_KINDS.get(kind, 'no regular file')}", str(path))
    return descriptor


def image_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height as an image's header says, without decoding; None if the header is not known or cut off."""
    if data.startswith(PNG_START):
        if len(data) < 24 or data[12:16] != b"IHDR":
            return None
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data.startswith(JPEG_START):
        at = 2
        while at + 9 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
            if 0xC0 <= data[at + 1] <= 0xCF and data[at + 1] not in (0xC4, 0xC8, 0xCC):
                return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
            at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    try:
        with Image.open(io.BytesIO(data)) as image:  # reads the header alone
            return image.size
    except Image.DecompressionBombError:
        return 2**16, 2**16  # more than OpenCV takes; the header itself stays unread
    except Exception:  # what Pillow cannot read; OpenCV has a limit of its own
        return None


def size_problem(data: bytes) -> str | None:
    """Return that an image has more pixels than the limit, by its header, or None."""
    size, most = image_size(data), int(os.environ.get(_LIMIT, MAX_PIXELS))
    if size is None or size[0] * size[1] <= most:
        return None
    return f"has {size[0]}×{size[1]} pixels, more than data.max_pixels={most}"


def read_image(path: str | Path) -> np.ndarray:
    """Return an image's pixels, uint8 RGB (H, W, 3), turned upright by its EXIF orientation.

    ``path`` is a file, or a place in a larger file (:mod:`skinkd.data.arrays`).

    OpenCV pads a truncated file with grey without a warning, so the end of the file is checked before decoding.

    Raises:
        UserError: the file is missing, truncated or no image.
    """
    place = split_path(str(path))
    if place:
        return read_array_image(*place)
    problem, image = "", None
    try:
        data = read_regular(path)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    else:
        problem = encoding_problem(data) or ""
        image = None if problem else decode(data)
    if problem:
        raise UserError(f"{path} {problem}; replace the file, or set data.on_bad_image=skip to leave out such images")
    if image is None:  # data.on_bad_image relies on the check of a file's two ends, which has passed
        raise UserError(
            f"{path} cannot be decoded, though its ends are whole; replace the file, or remove it and set "
            "data.on_bad_image=skip (python -m skinkd.data verify names all such files)"
        )
    return image


def decoding_problem(path: str | Path) -> str | None:
    """Decode an image file and return its fault, or None. An image in an array file is not decoded."""
    if split_path(str(path)):
        return None
    try:
        data = read_regular(path)
        return (
            size_problem(data)
            or tiff_colour_problem(data)
            or (None if decode(data) is not None else "cannot be decoded")
        )
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def decode(data: bytes, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """Return the pixels of an encoded image, uint8 RGB (H, W, 3), or None if it is too large or OpenCV cannot decode it.

    OpenCV's other ``flags`` may return a smaller image, or a grey one, (H, W).
    """
    return pixels_of(data, flags) if data and not size_problem(data) else None


def pixels_of(data: bytes, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """Return what :func:`decode` does, of an image of any size; also RGBA, (H, W, 4), with ``cv2.IMREAD_UNCHANGED``."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # such as a size that OpenCV refuses
        return None
    if image is None or image.ndim == 2:
        return image
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def encoding_problem(data: bytes) -> str | None:
    """Return the fault of a file's bytes, or None: JPEG and PNG are judged by their ends, and decoded if in doubt."""
    if not data:
        return "is empty"
    if data.startswith(JPEG_START) and not jpeg_ends(data):
        return "is truncated"
    if data.startswith(PNG_START) and PNG_END not in data:
        return "is truncated"
    if problem := size_problem(data) or tiff_colour_problem(data):
        return problem
    return None if begins_well(data[:HEAD]) or decode(data) is not None else "is not an image"


def file_problem(path: str | Path) -> str | None:
    """Return the fault of an image file, or None; only the two ends of the file are read if they are clear."""
    try:
        descriptor, first, size = _open_range(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    try:
        start = os.pread(descriptor, min(HEAD, size), first)
        end = os.pread(descriptor, min(TAIL, size), first + max(0, size - TAIL)).rstrip(b"\0")
        whole_jpeg = start.startswith(JPEG_START) and end.endswith(JPEG_END)
        whole_png = start.startswith(PNG_START) and end.endswith(PNG_END)
        if (whole_jpeg or whole_png) and begins_well(start):
            return size_problem(start)
        return encoding_problem(os.pread(descriptor, size, first))
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    finally:
        os.close(descriptor)


def check_images(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Return (path, problem) for every file that is missing, empty, truncated or no image, in order.

    JPEG and PNG files are judged by their first and last bytes, and decoded only if these are in doubt. That is quick
    enough for the start of every run, but misses damage in the middle of a file.

    Files that the system has in memory are checked by this thread alone: many threads would take three times as long, since
    one at a time runs Python. From the first slow files on, many threads wait for the disk or the network drive.
    """
    chunks = iter([paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)])
    problems: list[str | None] = []
    recent = 0.0  # seconds for a file, the mean over the last chunks: a single pause of the machine is no slow disk
    for chunk in chunks:
        began = time.monotonic()
        problems += map(file_problem, chunk)
        recent += (time.monotonic() - began) / len(chunk) / 4 - recent / 4
        if recent > SLOW:
            break
    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(lambda chunk: list(map(file_problem, chunk)), chunks):
            problems += found
    return [(path, problem) for path, problem in zip(paths, problems, strict=True) if problem]


def usable_images(frame: pd.DataFrame, *, name: str, on_bad_image: str) -> pd.DataFrame:
    """Return the rows whose image files are whole; a ``path`` of "" stands for a file that was not found.

    Args:
        frame: columns ``image_id`` and ``path``.
        name: of the dataset, for messages.
        on_bad_image: of a missing or damaged file, "error" names it in a UserError, and "skip" drops its row with a
            warning. "keep" checks nothing and keeps every row (``python -m skinkd.data verify`` does the check).

    Raises:
        UserError: a file is missing or damaged and ``on_bad_image`` is "error", or no file is usable.
    """
    check_choice("data.on_bad_image", on_bad_image, ("error", "skip", "keep"))
    if on_bad_image == "keep":
        return frame
    missing = frame["image_id"][(frame["path"] == "").to_numpy()]
    if len(missing) and on_bad_image == "error":
        raise UserError(
            f"{len(missing)} of the {len(frame)} images named in the metadata of {name} are missing "
            f"({listing(missing)}); complete the download, or set data.on_bad_image=skip to leave them out"
        )
    found = frame[(frame["path"] != "").to_numpy()]
    problems = dict(check_images(found["path"].tolist()))
    return without_damaged(found, problems, name=name, on_bad_image=on_bad_image, missing=len(missing))


def without_damaged(
    frame: pd.DataFrame, problems: Mapping[str, str], *, name: str, on_bad_image: str, missing: int = 0
) -> pd.DataFrame:
    """Return the rows whose path has no problem; a warning counts the others and ``missing`` more.

    Raises:
        UserError: there is a problem and ``on_bad_image`` is "error", or no row is left.
    """
    images = len(frame) + missing
    named = listing(f"{path} {problem}" for path, problem in problems.items())
    if problems and on_bad_image == "error":
        raise UserError(
            f"{len(problems)} of the {images} images of {name} cannot be used: {named}; replace the "
            "files, or set data.on_bad_image=skip to leave them out"
        )
    usable = frame[~frame["path"].isin(list(problems)).to_numpy()]
    if usable.empty:
        raise UserError(f"none of the {images} images of {name} can be used: {named or 'all are missing'}")
    if len(usable) < images:
        log.warning(
            "%d of the %d images of %s are left out (data.on_bad_image=skip): %d missing, %d damaged%s",
            *(
                images - len(usable),
                images,
                name,
                missing,
                len(problems),
                f": {named}" if named else "",
            ),
        )
    return usable
