"""MedMNIST's 2-D sets from their official ``.npz`` files: Yang et al., Scientific Data 10:41 (2023)."""

import contextlib
import json
import logging
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skinkd.data.arrays import image_path
from skinkd.data.hashing import file_crc
from skinkd.data.medmnist_sets import SETS, SIZES
from skinkd.data.source import File, Settings, Source
from skinkd.data.splits import PARTS
from skinkd.data.table import ImageTable
from skinkd.errors import UserError, check_choice
from skinkd.runs.files import written_atomically

log = logging.getLogger(__name__)

_BLOCK = 1 << 20
_MARKER = "checked.json"  # size and modification time of each unpacked array at the last check that found its CRC right


def load_medmnist(root: str | Path, *, flag: str, size: int, unpacked: str | Path) -> ImageTable:
    """Return the table of ``<flag>.npz`` (28 px) or ``<flag>_<size>.npz`` in ``root``, with its official split.

    The arrays of the archive are unpacked once into ``unpacked``, in a folder named by the archive's content; they are
    checked by the archive's CRCs, and memory-mapped from there. Images are named ``<part>_<row>``. MedMNIST tells
    neither lesions nor patients, so each image is a separate group; for DermaMNIST a warning tells of the leak.

    Raises:
        UserError: an unknown flag or size, a multi-label set, no such file, or one that is damaged or not
            MedMNIST's.
    """
    check_set(flag, size)
    archive = archive_file(Path(root).expanduser().absolute(), flag, size)
    if not archive.is_file():
        raise UserError(
            f"there is no {archive.name} in {archive.parent}; get it with "
            f"python -m skinkd.data download data=medmnist data.flag={flag} data.size={size}"
        )
    folder = unpack(archive, Path(unpacked).expanduser().absolute())
    frames = [_part(folder, part, archive, len(SETS[flag].classes)) for part in PARTS]
    if flag == "dermamnist":
        log.warning(
            "34.6 % of DermaMNIST's test images share a lesion with its training part, which flatters test figures; "
            "data=ham10000 protocol=dermamnist trains on that split with the lesions known"
        )
    return ImageTable(flag if size == 28 else f"{flag}_{size}", SETS[flag].classes, pd.concat(frames))


def published_files(table: Settings) -> list[File]:
    """Return the set's one file, with the MD5 that its authors publish.

    Raises:
        UserError: MedMNIST has no such set, or the set cannot be used.
    """
    flag, size = table["flag"], table["size"]
    check_set(flag, size)
    return [File(name=archive_file(Path(), flag, size).name, checksum=f"md5:{SETS[flag].md5[size]}")]


SOURCE = Source(
    licence="CC BY 4.0; DermaMNIST CC BY-NC 4.0",
    licence_of=lambda table: "CC BY-NC 4.0" if table["flag"] == "dermamnist" else "CC BY 4.0",
    title="MedMNIST",
    shows="small images of one of MedMNIST's sets",
    citations=(
        "J. Yang, R. Shi, D. Wei, Z. Liu, L. Zhao, B. Ke, H. Pfister, B. Ni. MedMNIST v2: a large-scale lightweight benchmark "
        "for 2D and 3D biomedical image classification. Scientific Data 10:41, 2023. doi:10.1038/s41597-022-01721-8",
    ),
    ids="MedMNIST {flag}",
    address="https://zenodo.org/records/10519652/files",
    files=published_files,
    chosen_by=("flag", "size"),
    class_maps=("dermamnist_ham10000",),
)


def check_set(flag: str, size: int) -> None:
    """Raise UserError unless MedMNIST has the set in this size, and its images have one label each."""
    check_choice("data.flag", flag, SETS)
    if size not in SIZES:
        raise UserError(f"data.size={size} is not a size of MedMNIST; use one of {', '.join(map(str, SIZES))}")
    if SETS[flag].task.startswith("multi-label"):
        raise UserError(
            f"data.flag={flag} has several labels for an image, and the methods here need one; use another set"
        )


def archive_file(root: Path, flag: str, size: int) -> Path:
    """Return the path of a set's file in ``root``, by MedMNIST's naming."""
    return root / (f"{flag}.npz" if size == 28 else f"{flag}_{size}.npz")


def unpack(archive: Path, unpacked: Path) -> Path:
    """Return the folder of the archive's ``<part>_images.npy`` and ``<part>_labels.npy``, and unpack those it lacks.

    An array that exists is kept if it has the archive's size and CRC; the CRC is not computed again if size and
    modification time are those of the last check. Each array gets its name only when it is whole, so two processes may
    unpack at once, and either may be killed.
    """
    names = [f"{part}_{what}.npy" for part in PARTS for what in ("images", "labels")]
    try:
        with zipfile.ZipFile(archive) as file:
            absent = [name for name in names if name not in file.namelist()]
            if absent:
                raise UserError(f"{archive} has no array {absent[0].removesuffix('.npy')}; is it MedMNIST's?")
            checksums = ",".join(f"{name}:{file.getinfo(name).CRC}" for name in names)
            folder = unpacked / f"{archive.stem}-{zlib.crc32(checksums.encode()):08x}"
            folder.mkdir(parents=True, exist_ok=True)
            known = _read_marker(folder)
            stamps = {name: _whole_member(file, name, folder, known.get(name)) for name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{archive} is damaged ({error}); download it again") from error
    if stamps != known:
        # the marker only saves time: a folder that cannot be written can do without
        with contextlib.suppress(OSError), written_atomically(folder / _MARKER) as temporary:
            temporary.write_text(json.dumps(stamps))
    return folder


def _read_marker(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _MARKER).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _whole_member(file: zipfile.ZipFile, name: str, folder: Path, known: Any) -> list[int]:
    """Unpack the array ``name`` if ``folder`` lacks it or has a damaged one; return its [size, modification time]."""
    member, path = file.getinfo(name), folder / name
    if path.is_file():
        stamp = _stamp(path)  # before the reading, so that a change during it is seen next time
        if stamp[0] == member.file_size and (stamp == known or file_crc(path) == member.CRC):
            return stamp
        log.warning("%s is not what %s holds; it is unpacked again", path, file.filename)
    with written_atomically(path, sync=False) as temporary:
        # reading a member to its end checks its CRC
        with file.open(member) as source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)
        return _stamp(temporary)


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _part(folder: Path, part: str, archive: Path, classes: int) -> pd.DataFrame:
    file = folder / f"{part}_images.npy"
    try:
        images = np.load(file, mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / f"{part}_labels.npy", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{archive} holds no arrays of images and labels ({error}); is it MedMNIST's?") from error
    grey = images.ndim == 3
    if not (grey or (images.ndim == 4 and images.shape[3] == 3)) or images.dtype != np.uint8:
        raise UserError(
            f"{archive}: {part}_images is {images.dtype} {images.shape}; 2-D sets have uint8 (N, H, W) or (N, H, W, 3)"
        )
    if labels.shape not in ((len(images), 1), (len(images),)):
        raise UserError(
            f"{archive}: {part}_labels is {labels.shape} for {len(images)} images; it must be one label each"
        )
    labels = labels.reshape(-1).astype(np.int64)
    if not np.isin(labels, np.arange(classes)).all():
        raise UserError(
            f"{archive}: {part}_labels runs from {labels.min()} to {labels.max()}; this set has {classes} classes"
        )
    count, height, width = images.shape[:3]
    channels = 1 if grey else 3
    names = [f"{part}_{row:06d}" for row in range(count)]
    step = height * width * channels
    return pd.DataFrame(
        {
            "image_id": names,
            "path": [image_path(file, row * step, height, width, channels) for row in range(count)],
            "label": labels,
            "group": names,
            "official_split": part,
        }
    )
