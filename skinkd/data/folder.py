"""A user's own images: folders named by class, or a CSV of files, classes and, if known, groups and parts."""

import logging
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd

from skinkd.data.class_folders import scan_classes
from skinkd.data.files import decoding_problem, usable_images, without_damaged
from skinkd.data.groups import connected_groups
from skinkd.data.hashing import image_hashes
from skinkd.data.near import remembered_pairs
from skinkd.data.paths import below, explain_missing, on_disk
from skinkd.data.table import (
    ImageTable,
    check_case,
    class_labels,
    is_missing,
    listing,
    read_csv,
    split_column,
)
from skinkd.errors import UserError, check_choice

log = logging.getLogger(__name__)


def load_folder(
    root: str | Path, *, near_duplicate_bits: int | None, memory: str | Path, on_bad_image: str
) -> ImageTable:
    """Return the table of ``root/<class>/…`` or ``root/<part>/<class>/…``, parts named train, val and test.

    Images (``IMAGE_ENDINGS``) may lie deeper in a class's folder. Hidden folders and those that systems make are left out. A
    warning counts other files, links that lead back, and images outside the class folders. An image's id is its path under
    ``root``; the classes are the folders' names, sorted. Folders of parts give a column ``official_split``, for
    ``protocol=official``. Near-duplicates form one group; any other image is a separate group.

    Args:
        root: the folder.
        near_duplicate_bits: see :func:`group_near_duplicates`; None makes every image a separate group.
        memory: folder that stores the perceptual hashes.
        on_bad_image: "error" or "skip", see :func:`skinkd.data.files.usable_images`.

    Raises:
        UserError: no folder, no class folders, a class folder without an image, fewer than two classes, a folder that
            cannot be read, or an image that cannot be used.
    """
    root = Path(str(root)).expanduser().absolute()
    frame, classes = scan_classes(root)
    frame = usable_images(frame, name=str(root), on_bad_image=on_bad_image)
    frame = group_near_duplicates(
        frame, bits=near_duplicate_bits, memory=Path(memory), name=str(root), on_bad_image=on_bad_image
    )
    return ImageTable(root.name, classes, frame)


def group_near_duplicates(
    frame: pd.DataFrame, *, bits: int | None, memory: Path, name: str, on_bad_image: str, join: bool = True
) -> pd.DataFrame:
    """Return the rows with groups joined wherever images' perceptual hashes differ in at most ``bits`` of 256.

    The hashes decode every file. A file that cannot be decoded is treated as a truncated one: ``on_bad_image`` says
    whether it is dropped, reported or kept. If ``join`` is False, that is all. If ``bits`` is None, nothing is done.
    """
    if bits is None or frame.empty or (on_bad_image == "keep" and not join):
        return frame
    hashes = image_hashes(frame["path"].tolist(), memory=memory)
    if on_bad_image != "keep":
        # a hash of 0 is that of a file that cannot be decoded, or of a black image
        suspects = frame["path"].to_numpy()[~hashes.any(axis=1)]
        problems = {path: problem for path in suspects if (problem := decoding_problem(path))}
        if problems:
            good = ~frame["path"].isin(list(problems)).to_numpy()
            frame = without_damaged(frame, problems, name=name, on_bad_image=on_bad_image)
            hashes = hashes[good]
    if not join:
        return frame
    ids = frame["image_id"].to_numpy(str)
    pairs = ids[remembered_pairs(hashes, distance=bits, memory=memory)]
    groups = connected_groups(
        ids.tolist(), frame["group"].tolist(), [(str(first), str(second)) for first, second in pairs]
    )
    frame = frame.assign(group=groups)
    frame.attrs["near_duplicate_bits"] = bits  # if a class then has too few groups, the error names the setting
    return frame


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
    missing_labels: str = "error",
) -> ImageTable:
    """Return the table that a CSV describes; relative paths are taken from ``root``, or from the CSV's folder.

    Args:
        file: the CSV; see :func:`skinkd.data.table.read_csv` for what it may look like.
        root: folder of the images, or None.
        path_column: column of the image files' paths.
        label_column: column of class names; the classes are its values, sorted, with composed accents (Unicode's NFC).
        id_column: column of image ids, or None: the path is the id.
        group_column: column of lesion or, better, patient; an image with an empty cell, or a word for it such as NA, is a
            separate group, and a warning counts these. None: neither is known, and near-duplicates are grouped.
            ``frame.attrs["group_column"]`` has the column's name.
        split_column_name: column with train, val or test, for ``protocol=official``, or None.
        near_duplicate_bits: see :func:`group_near_duplicates`.
        memory: folder that stores the perceptual hashes.
        on_bad_image: "error" or "skip", see :func:`skinkd.data.files.usable_images`.
        missing_labels: of a label that is a word for no value, such as NA or none, "error" names it, and "keep" takes it as
            the name of a class. Stored runs may be older than the setting.

    Raises:
        UserError: the CSV, a column or an image is missing or wrong, or there is only one class.
    """
    file = Path(str(file)).expanduser().absolute()
    folder = file.parent if root is None else Path(str(root)).expanduser().absolute()
    path_column, label_column = str(path_column), str(label_column)  # Hydra turns a name such as 7 into a number
    id_column, group_column, split_column_name = (
        None if name is None else str(name) for name in (id_column, group_column, split_column_name)
    )
    required = [name for name in (path_column, label_column, id_column) if name]
    loose = [name for name in (group_column, split_column_name) if name]
    rows = read_csv(file, required=required, optional_cells=loose)
    ids = rows[id_column or path_column]
    labels = [unicodedata.normalize("NFC", label) for label in rows[label_column]]
    if check_choice("data.missing_labels", missing_labels, ("error", "keep")) == "error":
        _refuse_missing(labels, file, label_column)
    check_case(labels, str(file), f"labels of {label_column!r}")
    classes = tuple(sorted(set(labels)))
    if len(classes) < 2:
        raise UserError(f"{file}: {label_column!r} has only the class {classes[0]!r}; there must be two or more")
    groups = _known_groups(rows[group_column], group_column) if group_column else pd.Series("", index=rows.index)
    paths = [on_disk(below(str(folder), path)) for path in rows[path_column]]
    explain_missing(paths, folder, source=f"{file}, column {path_column!r}")
    frame = pd.DataFrame(
        {
            "image_id": ids,
            "path": paths,
            "label": class_labels(labels, classes, source=file, column=label_column),
            "group": np.where(groups == "", "image:" + ids, groups),
        }
    )
    if split_column_name:
        frame["official_split"] = split_column(rows[split_column_name], file)
    table = ImageTable(file.stem, classes, frame)  # an id given twice is reported before the files are read
    usable = usable_images(table.frame, name=str(file), on_bad_image=on_bad_image)
    usable = group_near_duplicates(
        usable,
        bits=near_duplicate_bits,
        memory=Path(memory),
        name=str(file),
        on_bad_image=on_bad_image,
        join=not group_column,
    )
    if group_column:
        usable.attrs["group_column"] = group_column  # of lesions or of patients: only the author of the table knows
    return ImageTable(table.name, classes, usable)


def _refuse_missing(labels: list[str], file: Path, column: str) -> None:
    missing = [label for label in labels if is_missing(label)]
    if missing:
        raise UserError(
            f"{file}: {column!r} is {missing[0]!r} in {len(missing)} rows, which says that the class is not known; give them "
            "their class, remove them, or set data.missing_labels=keep if it is the name of a class"
        )


def _known_groups(cells: pd.Series, column: str) -> pd.Series:
    """Return the cells with "" for those that say that there is no value; a warning counts them."""
    missing = cells.map(lambda cell: is_missing(cell) or cell.lower() == "unknown")
    if missing.any():
        words = listing(sorted({repr(cell) for cell in cells[missing]}))
        log.warning(
            "%d of %d images have no %r (%s): each of them is a group of its own",
            missing.sum(),
            len(cells),
            column,
            words,
        )
    return cells.mask(missing, "")
