"""Data of one's own: folders named by class, or a CSV that names files, classes and, if known, groups and parts."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from skinkd.data.files import IMAGE_ENDINGS, usable_images
from skinkd.data.ham10000 import connected_groups
from skinkd.data.hashing import image_hashes, near_pairs
from skinkd.data.table import PART_NAMES, ImageTable, class_labels, listing, read_csv, split_column
from skinkd.errors import UserError


def load_folder(
    root: str | Path, *, near_duplicate_bits: int | None, memory: str | Path, on_bad_image: str
) -> ImageTable:
    """Return the table of ``root/<class>/…`` or ``root/<part>/<class>/…``, parts named train, val and test.

    Images (JPEG, PNG) may lie deeper in a class's folder. An image's id is its path under ``root``; the
    classes are the folders' names, sorted. With parts there is a column ``official_split``, for
    ``protocol=official``. Images that are near-duplicates are one group, any other is a group of its own.

    Args:
        root: the folder.
        near_duplicate_bits: see :func:`group_near_duplicates`; None makes every image a group of its own.
        memory: folder to remember the perceptual hashes in.
        on_bad_image: "error" or "skip", see :func:`skinkd.data.files.usable_images`.

    Raises:
        UserError: no folder, no class folders, fewer than two classes, or an image that cannot be used.
    """
    root = Path(root).expanduser().absolute()
    frame, classes = scan_classes(root)
    frame = usable_images(frame, name=str(root), on_bad_image=on_bad_image)
    frame = group_near_duplicates(frame, bits=near_duplicate_bits, memory=Path(memory))
    return ImageTable(root.name, classes, frame)


def scan_classes(root: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return image_id, path, label and group (each image's own) of a folder, and its classes."""
    if not root.is_dir():
        raise UserError(
            f"there is no folder {root}; point data.root at a folder that holds one folder of images for each "
            "class, or train/, val/ and test/ with such folders"
        )
    tops = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")
    parts = [name for name in tops if name.lower() in PART_NAMES]
    if parts and len(parts) != len(tops):
        other = [name for name in tops if name not in parts]
        raise UserError(
            f"{root} has the parts {listing(parts)} and beside them {listing(other)}; put class folders "
            "either into the parts or directly into the root"
        )
    rows = []
    for part in parts or [""]:
        for folder in sorted((root / part).iterdir()):
            if folder.is_dir() and folder.name[0] != ".":
                rows += [(path, folder.name, part) for path in _images(folder)]
    classes = tuple(sorted({name for _, name, _ in rows}))
    if len(classes) < 2:
        raise UserError(
            f"{root} has images (.jpg, .jpeg, .png) of {len(classes)} classes; it needs one folder of images "
            "for each of two classes or more"
        )
    ids = [Path(path).relative_to(root).as_posix() for path, _, _ in rows]
    frame = pd.DataFrame(
        {
            "image_id": ids,
            "path": [path for path, _, _ in rows],
            "label": [classes.index(name) for _, name, _ in rows],
            "group": ids,
        }
    )
    if parts:
        frame["official_split"] = split_column([part for _, _, part in rows], root)
    return frame, classes


def _images(folder: Path) -> list[str]:
    return sorted(
        os.path.join(where, name)
        for where, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(IMAGE_ENDINGS) and name[0] != "."
    )


def group_near_duplicates(frame: pd.DataFrame, *, bits: int | None, memory: Path) -> pd.DataFrame:
    """Return the rows with groups joined wherever images' perceptual hashes differ in at most ``bits`` of 256.

    None returns them as they are.
    """
    if bits is None or frame.empty:
        return frame
    hashes = image_hashes(frame["path"].tolist(), memory=memory)
    ids = frame["image_id"].to_numpy(str)
    pairs = ids[near_pairs(hashes, distance=bits)]
    groups = connected_groups(
        ids.tolist(), frame["group"].tolist(), [(str(first), str(second)) for first, second in pairs]
    )
    return frame.assign(group=groups)


def load_table(
    file: str | Path,
    *,
    root: str | Path | None,
    path_column: str,
    label_column: str,
    id_column: str | None,
    group_column: str | None,
    split_column_name: str | None,
    near_duplicate_bits: int | None,
    memory: str | Path,
    on_bad_image: str,
) -> ImageTable:
    """Return the table that a CSV describes; relative paths are taken from ``root``, or from the CSV's folder.

    Args:
        file: the CSV; see :func:`skinkd.data.table.read_csv` for what it may look like.
        root: folder of the images, or None.
        path_column: column of the image files' paths.
        label_column: column of class names; the classes are its values, sorted.
        id_column: column of image ids, or None: the path is the id.
        group_column: column of lesion or, better, patient; an empty cell makes a group of its own. None: none
            is known, and near-duplicates are grouped.
        split_column_name: column with train, val or test, for ``protocol=official``, or None.
        near_duplicate_bits: see :func:`group_near_duplicates`.
        memory: folder to remember the perceptual hashes in.
        on_bad_image: "error" or "skip", see :func:`skinkd.data.files.usable_images`.

    Raises:
        UserError: the CSV, a column, an image or a second class is missing or wrong.
    """
    file = Path(file).expanduser().absolute()
    folder = file.parent if root is None else Path(root).expanduser().absolute()
    required = [name for name in (path_column, label_column, id_column) if name]
    loose = [name for name in (group_column, split_column_name) if name]
    rows = read_csv(file, required=required, optional_cells=loose)
    ids = rows[id_column or path_column]
    classes = tuple(sorted(set(rows[label_column])))
    if len(classes) < 2:
        raise UserError(f"{file}: {label_column!r} has the class {classes[0]!r} alone; there must be two or more")
    groups = rows[group_column] if group_column else pd.Series("", index=rows.index)
    frame = pd.DataFrame(
        {
            "image_id": ids,
            "path": [str(folder / path) for path in rows[path_column]],
            "label": class_labels(rows[label_column].tolist(), classes, source=file, column=label_column),
            "group": np.where(groups == "", "image:" + ids, groups),
        }
    )
    if split_column_name:
        frame["official_split"] = split_column(rows[split_column_name], file)
    table = ImageTable(file.stem, classes, frame)  # an id given twice is reported before the files are read
    usable = usable_images(table.frame, name=str(file), on_bad_image=on_bad_image)
    if group_column is None:
        usable = group_near_duplicates(usable, bits=near_duplicate_bits, memory=Path(memory))
    return ImageTable(table.name, classes, usable)
