"""Image files: whether they are whole, and their pixels."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from skinkd.data.arrays import read_array_image, split_path
from skinkd.data.table import listing
from skinkd.errors import UserError, check_choice

log = logging.getLogger(__name__)

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
TAIL = 512  # bytes read from the end of a file
CHUNK = 256  # files per thread task
THREADS = 16  # waiting on a disk or a network drive, not computing


IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")


def find_images(root: Path, folders: Sequence[str]) -> dict[str, str]:
    """Return name without ending -> path for the images in ``folders`` of ``root``; an earlier folder wins."""
    found: dict[str, str] = {}
    for name in folders:
        folder = root / name
        if not folder.is_dir():
            continue
        for entry in os.scandir(folder):
            stem, ending = os.path.splitext(entry.name)
            if ending.lower() in IMAGE_ENDINGS:
                found.setdefault(stem, entry.path)
    return found


def read_image(path: str | Path) -> np.ndarray:
    """Return an image's pixels, uint8 RGB (H, W, 3), turned upright as its EXIF says.

    ``path`` is a file, or a place in an array file (:mod:`skinkd.data.arrays`).

    OpenCV pads a truncated file with grey and says nothing, so the end of the file is checked before
    decoding.

    Raises:
        UserError: the file is missing, truncated or no image.
    """
    place = split_path(str(path))
    if place:
        return read_array_image(*place)
    problem, image = "is missing", None
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    else:
        problem = encoding_problem(data) or ""
        if not problem:
            image = decode(data)
    if image is None:
        raise UserError(
            f"{path} {problem or 'is not an image'}; replace the file, or set data.on_bad_image=skip to "
            "leave out such images"
        )
    return image


def decode(data: bytes) -> np.ndarray | None:
    """Return the pixels of an encoded image, uint8 RGB (H, W, 3), or None if OpenCV cannot decode it."""
    if not data:
        return None
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def encoding_problem(data: bytes) -> str | None:
    """Return what is wrong with a file's bytes, or None; JPEG and PNG by their ends, others by decoding."""
    if not data:
        return "is empty"
    if data.startswith(JPEG_START):
        return None if _jpeg_ends(data) else "is truncated"
    if data.startswith(PNG_START):
        return None if PNG_END in data else "is truncated"
    return None if decode(data) is not None else "is not an image"


def _jpeg_ends(data: bytes) -> bool:
    """Whether an end-of-image marker follows the scan.

    The segments before the scan are stepped over, since a thumbnail among them has an end marker too; inside
    a scan a byte FF is always stuffed, so the pair FF D9 after its start is the end. Cameras may append bytes
    after it.
    """
    if data[-TAIL:].rstrip(b"\0").endswith(JPEG_END):
        return True
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xDA:
            return data.find(JPEG_END, at) >= 0
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def file_problem(path: str | Path) -> str | None:
    """Return what is wrong with an image file, or None, reading its two ends only where that is enough."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    try:
        size = os.fstat(descriptor).st_size
        start = os.pread(descriptor, len(PNG_START), 0)
        end = os.pread(descriptor, TAIL, max(0, size - TAIL)).rstrip(b"\0")
        whole_jpeg = start.startswith(JPEG_START) and end.endswith(JPEG_END)
        whole_png = start == PNG_START and end.endswith(PNG_END)
        return None if whole_jpeg or whole_png else encoding_problem(os.pread(descriptor, size, 0))
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    finally:
        os.close(descriptor)


def check_images(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Return (path, problem) for every file that is missing, empty, truncated or no image, in order.

    JPEG and PNG files are judged by their first and last bytes, without decoding: quick enough for every
    start, but blind to damage in the middle of a file.
    """
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        problems = [
            found for chunk in pool.map(lambda chunk: [file_problem(p) for p in chunk], chunks) for found in chunk
        ]
    return [(path, problem) for path, problem in zip(paths, problems, strict=True) if problem]


def usable_images(frame: pd.DataFrame, *, name: str, on_bad_image: str) -> pd.DataFrame:
    """Return the rows whose image files are whole; ``path`` "" stands for a file that was not found.

    Raises:
        UserError: a file is missing or damaged and ``on_bad_image`` is "error" (the first few are named), or
            none is usable. With "skip" the rows are dropped and a warning counts them; with "keep" nothing is
            looked at and every row stays, for a check of its own (``python -m skinkd.data verify``).
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
    named = listing(f"{path} {problem}" for path, problem in problems.items())
    if problems and on_bad_image == "error":
        raise UserError(
            f"{len(problems)} of the {len(frame)} images of {name} cannot be used: {named}; replace the "
            "files, or set data.on_bad_image=skip to leave them out"
        )
    usable = found[~found["path"].isin(list(problems)).to_numpy()]
    if usable.empty:
        raise UserError(f"none of the {len(frame)} images of {name} can be used: {named or 'all are missing'}")
    if len(usable) < len(frame):
        log.warning(
            "%d of the %d images of %s are left out (data.on_bad_image=skip): %d missing, %d damaged%s",
            *(
                len(frame) - len(usable),
                len(frame),
                name,
                len(missing),
                len(problems),
                f": {named}" if named else "",
            ),
        )
    return usable
