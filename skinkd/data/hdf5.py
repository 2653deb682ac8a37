"""Finds the image files inside an HDF5 file: training then reads ranges of bytes, in any number of processes.

Only the search opens the file as HDF5, so no process shares a handle of that library. A link, a virtual dataset or external
storage could name another file of the machine: such members are refused.
"""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

from skinkd.data.arrays import range_path
from skinkd.data.files import open_regular
from skinkd.errors import UserError
from skinkd.runs.files import written_atomically

VERSION = 1
"""Part of the name of every stored list: raise it if the list of the same file changes."""


def images_in(file: Path, *, memory: Path) -> dict[str, str]:
    """Return name -> path for the datasets at the top of an HDF5 file, each the bytes of one encoded image.

    A dataset is stored in one piece: a scalar string or opaque value, or a vector of single bytes. The list is stored, as the
    search for 400,000 images takes longer than all other steps before training.

    Args:
        file: the file; its name ends in ``.hdf5``.
        memory: folder that stores the list, by path, size and time of change.

    Raises:
        UserError: h5py is not installed, the file cannot be read, or a dataset is a link or stored in another way.
    """
    try:
        os.close(open_regular(file))
        status = file.stat()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); download it again") from error
    key = f"{VERSION}:{file}:{status.st_size}:{status.st_mtime_ns}"
    stored = memory / f"hdf5-{file.stem}.json"
    try:
        content: dict[str, Any] = json.loads(stored.read_text())
        ranges = content["images"] if content["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        ranges = None
    if ranges is None:
        ranges = _search(file, status.st_size)
        with written_atomically(stored, sync=False) as temporary:
            temporary.write_text(json.dumps({"key": key, "images": ranges}))
    return {name: range_path(file, offset, length, name) for name, (offset, length) in ranges.items()}


def _search(file: Path, size: int) -> dict[str, tuple[int, int]]:
    """Return name -> (first byte, number of bytes) of each dataset."""
    if importlib.util.find_spec("h5py") is None:
        raise UserError(f"{file} needs the package h5py; run pip install 'skinkd[hdf5]', or unpack the images")
    import h5py

    ranges = {}
    try:
        with h5py.File(file, "r", locking=False) as opened:
            names = list(opened)
            for name in tqdm(names, "looking for images", unit="image", disable=None, leave=False):
                place = _range(opened.id, name.encode())
                if isinstance(place, str):
                    raise UserError(f"{file}: {name} {place}; use the published file, or unpack the images")
                if place[0] + place[1] > size:
                    raise UserError(f"{file} is truncated; download it again")
                ranges[name] = place
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise UserError(f"{file} cannot be read as HDF5 ({error}); download it again") from error
    return ranges


def _range(group: Any, name: bytes) -> tuple[int, int] | str:
    """Return the first byte and the number of bytes of a dataset, or why it is not read."""
    from h5py import h5d, h5l, h5o, h5t

    if group.links.get_info(name).type != h5l.TYPE_HARD:
        return "is a link, which may lead to another file"
    member = h5o.open(group, name)
    if not isinstance(member, h5d.DatasetID):
        return "is not a dataset"
    kind, plan = member.get_type(), member.get_create_plist()
    if plan.get_external_count() or plan.get_layout() == h5d.VIRTUAL:
        return "is stored in another file"
    single = kind.get_size() == 1 and kind.get_class() in (h5t.INTEGER, h5t.OPAQUE)
    whole = kind.get_class() in (h5t.STRING, h5t.OPAQUE) and not kind.is_variable_str()
    if not (single or whole) or member.rank != (1 if single else 0):
        return "is not the bytes of one file"
    offset = member.get_offset()
    if plan.get_layout() != h5d.CONTIGUOUS or offset is None:
        return "is not stored in one piece"
    return int(offset), int(member.get_storage_size())
