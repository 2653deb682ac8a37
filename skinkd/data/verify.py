"""Faults in a dataset's files, to be found before anybody trains on them."""

import hashlib
import os
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from skinkd.data.arrays import read_array_image, split_path
from skinkd.data.files import decode, encoding_problem, read_regular
from skinkd.data.hashing import file_checksum
from skinkd.data.source import Settings, Source, source_of
from skinkd.data.table import ImageTable, listing
from skinkd.errors import UserError

CHUNK = 32


class _Image(NamedTuple):
    problem: str | None
    digest: bytes
    shape: tuple[int, int]


@dataclass(frozen=True)
class Verdict:
    """What :func:`verify` found: a sentence for each problem, and facts about the data that are no problem."""

    problems: list[str]
    facts: list[str]


def verify(table: ImageTable, *, source: Source | None = None) -> Verdict:
    """Read and decode every image of a table loaded with ``on_bad_image="keep"``.

    Problems: an image that is missing, empty, truncated or no image; copies, byte by byte or by group, with
    different labels; byte-identical images in different parts of the dataset's own split, or in different
    groups if the dataset has groups of several images. Damage in the middle of a JPEG is not found if OpenCV still
    decodes the file. The group column of a user's own table may name patients, who may have several diagnoses:
    groups with different labels are then a fact, not a problem.

    Args:
        table: the images.
        source: the dataset's ``SOURCE``; None: it has none. A split that another dataset published
            (``source.named_split``) may put copies into different parts; training measures that, and here it is no
            problem.
    """
    frame = table.frame
    paths, ids = frame["path"].tolist(), frame["image_id"].tolist()
    images = _read_all(paths)
    problems = [
        f"{path or image_id} {image.problem}"
        for image_id, path, image in zip(ids, paths, images, strict=True)
        if image.problem
    ]
    labels = [table.classes[label] for label in frame["label"]]
    groups = frame["group"].tolist()
    copies: dict[bytes, list[int]] = defaultdict(list)
    for row, image in enumerate(images):
        if not image.problem:
            copies[image.digest].append(row)
    repeated = [rows for rows in copies.values() if len(rows) > 1]
    own_split = "official_split" in frame and (source is None or source.named_split is None)
    parts = frame["official_split"].tolist() if own_split else [""] * len(frame)
    lesions: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        lesions[group].append(row)
    knows_groups = len(lesions) < len(frame)
    told: set[int] = set()  # a wrong label is told once, even if both a copy and the group contradict it
    for rows in repeated:
        if len({labels[row] for row in rows}) > 1:
            problems.append(f"the same file with different labels: {_named(rows, ids, labels)}")
            told.update(rows)
        elif len({parts[row] for row in rows if parts[row]}) > 1:
            problems.append(f"the same file in different parts: {_named(rows, ids, parts)}")
        elif knows_groups and len({groups[row] for row in rows}) > 1:
            problems.append(f"the same file in different groups: {_named(rows, ids, groups)}")
    mixed = [
        f"group {group} has different labels: {_named(rows, ids, labels)}"
        for group, rows in lesions.items()
        if len({labels[row] for row in rows if row not in told}) > 1
    ]
    own_column = frame.attrs.get("group_column")
    problems += [] if own_column else mixed
    counts = np.bincount(frame["label"], minlength=len(table.classes))
    shapes = Counter(image.shape for image in images if not image.problem)
    facts = [
        f"{len(frame):,} images, {len(table.classes)} classes, {len(lesions):,} groups",
        ", ".join(f"{name} {count:,}" for name, count in zip(table.classes, counts, strict=True)),
        f"sizes: {listing(f'{w}x{h} ({n:,})' for (h, w), n in shapes.most_common())}",
        f"{sum(map(len, repeated)) - len(repeated):,} images are byte-identical copies of another"
        + (f": {listing(' = '.join(ids[row] for row in rows[:4]) for rows in repeated)}" if repeated else ""),
    ]
    if own_column and mixed:
        facts.append(f"{len(mixed):,} groups of the column {own_column!r} have images of different labels")
    return Verdict(problems, facts)


def published_problems(settings: Settings) -> list[str]:
    """Return a sentence for each file of a dataset that exists and does not have its published checksum.

    Args:
        settings: ``data.table`` of a table that could be loaded.
    """
    source = source_of(settings)
    if source is None or source.files is None:
        return []
    root = Path(settings["root"]).expanduser().absolute()
    sums = {root / file.name: file.checksum for file in source.files(settings) if file.checksum}
    return [
        f"{path} is not the published file ({checksum}); remove it, and download it again"
        for path, checksum in sums.items()
        if path.is_file() and file_checksum(path, checksum) != checksum
    ]


def _named(rows: list[int], ids: list[str], values: list[str]) -> str:
    return listing((f"{ids[row]} ({values[row]})" for row in rows), shown=8)


def _read_all(paths: list[str]) -> list[_Image]:
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    images: list[_Image] = []
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(paths), desc="verifying", unit="image", disable=None, leave=False) as bar,
    ):
        for chunk in pool.map(lambda chunk: [_read(path) for path in chunk], chunks):
            images += chunk
            bar.update(len(chunk))
    return images


def _read(path: str) -> _Image:
    if not path:
        return _Image("is missing", b"", (0, 0))
    place = split_path(path)
    try:
        if place:
            pixels = read_array_image(*place)
            return _Image(None, hashlib.sha256(pixels.tobytes()).digest(), pixels.shape[:2])
        data = read_regular(path)
    except FileNotFoundError:
        return _Image("is missing", b"", (0, 0))
    except UserError as error:
        return _Image(f"cannot be read ({error})", b"", (0, 0))
    except OSError as error:
        return _Image(f"cannot be read ({error.strerror})", b"", (0, 0))
    problem = encoding_problem(data)
    image = None if problem else decode(data)
    if image is None:
        return _Image(problem or "is not an image", b"", (0, 0))
    return _Image(None, hashlib.sha256(data).digest(), image.shape[:2])
