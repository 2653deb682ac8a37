"""Everything that can be wrong with a dataset's files, looked for before anybody trains on them."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from skinkd.data.arrays import read_array_image, split_path
from skinkd.data.download import ISIC2019_SHA256
from skinkd.data.files import decode, encoding_problem
from skinkd.data.ham10000 import CLASSES as HAM10000_CLASSES
from skinkd.data.medmnist import archive_file
from skinkd.data.medmnist_sets import SETS
from skinkd.data.table import ImageTable, listing
from skinkd.errors import UserError

CHUNK = 32


class _Image(NamedTuple):
    problem: str | None
    digest: bytes
    shape: tuple[int, int]


@dataclass(frozen=True)
class Verdict:
    """What :func:`verify` found: one sentence for each problem, and facts that are none."""

    problems: list[str]
    facts: list[str]


def verify(table: ImageTable) -> Verdict:
    """Read and decode every image of a table loaded with ``on_bad_image="keep"``.

    Problems: an image that is missing, empty, truncated or no image; copies, byte by byte or by group, with
    different labels; byte-identical images in different parts of the dataset's own split, or in different
    groups of a dataset that knows its groups. Damage in the middle of a JPEG that leaves it decodable is not
    seen. A group column of one's own may be of patients, with several diagnoses each: these are a fact.
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
    parts = _own_parts(table)
    lesions: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        lesions[group].append(row)
    knows_groups = len(lesions) < len(frame)
    told: set[int] = set()  # a wrong label is one problem, even if it contradicts a copy and other images of its group
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


def published_problems(settings: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each file of a dataset that is there and has not its published checksum.

    Args:
        settings: ``data.table`` of a table that could be loaded; ISIC 2019's tables and MedMNIST's archives have
            published checksums.
    """
    target, sums = settings["_target_"], {}
    if target.endswith("load_isic2019"):
        root = Path(settings["root"]).expanduser().absolute()
        sums = {root / name: f"sha256:{value}" for name, value in ISIC2019_SHA256.items()}
    elif target.endswith("load_medmnist"):
        flag, size = settings["flag"], settings["size"]
        sums = {archive_file(Path(settings["root"]).expanduser().absolute(), flag, size): f"md5:{SETS[flag].md5[size]}"}
    return [
        f"{path} is not the published file ({checksum}); remove it, and download it again"
        for path, checksum in sums.items()
        if path.is_file() and _checksum(path, checksum.partition(":")[0]) != checksum
    ]


def _checksum(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"


def _own_parts(table: ImageTable) -> list[str]:
    """Return the part of each image in the dataset's own split, or "" for each.

    The split that HAM10000's table may carry is DermaMNIST's, which is known to part copies and says so when it is used.
    """
    if "official_split" not in table.frame or (table.name, table.classes) == ("ham10000", HAM10000_CLASSES):
        return [""] * len(table)
    return table.frame["official_split"].tolist()


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
        data = Path(path).read_bytes()
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
