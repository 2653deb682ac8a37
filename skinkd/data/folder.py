"""A user's own images: folders named by class, or a CSV of files, classes and, if known, groups and parts."""

import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from skinkd.data.files import IMAGE_ENDINGS, decoding_problem, usable_images, without_damaged
from skinkd.data.groups import connected_groups
from skinkd.data.hashing import image_hashes, near_pairs
from skinkd.data.table import PART_NAMES, ImageTable, class_labels, listing, read_csv, split_column
from skinkd.errors import UserError

log = logging.getLogger(__name__)

# of files that often lie next to images; they are ignored without a warning
SIDE_ENDINGS = (".csv", ".tsv", ".txt", ".md", ".json", ".xml", ".yaml", ".html", ".pdf", ".xlsx", ".db", ".ini")


def load_folder(
    root: str | Path, *, near_duplicate_bits: int | None, memory: str | Path, on_bad_image: str
) -> ImageTable:
    """Return the table of ``root/<class>/…`` or ``root/<part>/<class>/…``, parts named train, val and test.

    Images (``IMAGE_ENDINGS``) may lie deeper in a class's folder. A warning counts other files there, and images outside
    the class folders. An image's id is its path under ``root``; the classes are the folders' names, sorted. Folders of
    parts give a column ``official_split``, for ``protocol=official``. Near-duplicates form one group; any other image is
    a separate group.

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


def scan_classes(root: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return image_id, path, label and group (one for each image) of a folder, and the classes."""
    if not root.is_dir():
        raise UserError(
            f"there is no folder {root}; point data.root at a folder that holds one folder of images for each "
            "class, or train/, val/ and test/ with such folders"
        )
    tops = [folder.name for folder in _listed(root)[0]]
    parts = [name for name in tops if name.lower() in PART_NAMES]
    if parts and len(parts) != len(tops):
        other = [name for name in tops if name not in parts]
        raise UserError(
            f"{root} has both the parts {listing(parts)} and other folders ({listing(other)}); put class folders "
            "either into the parts or directly into the root"
        )
    rows = _scan(root, parts)
    classes = tuple(sorted({name for _, name, _ in rows}))
    if len(classes) < 2:
        raise UserError(
            f"{root} has images ({', '.join(IMAGE_ENDINGS)}) of {len(classes)} classes; it needs one folder of images "
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


def _scan(root: Path, parts: list[str]) -> list[tuple[str, str, str]]:
    """Return path, class and part of every image; warn of files that are not used."""
    rows: list[tuple[str, str, str]] = []
    unused: Counter[str] = Counter()
    empty = []
    for part in parts or [""]:
        folders, files = _listed(root / part)
        unused += Counter(_ending(file.name) for file in files if file.name.lower().endswith(IMAGE_ENDINGS))
        for folder in folders:
            images, others = _images(folder)
            rows += [(path, folder.name, part) for path in images]
            unused += others
            if not images:
                empty.append(f"{folder}{_counted(others)}")
    if empty:
        raise UserError(
            f"{len(empty)} class folders hold no image ({', '.join(IMAGE_ENDINGS)}): {listing(empty)}; put images there, "
            "or remove the folder"
        )
    if unused:
        log.warning(
            "%d files under %s are not used, as they have no ending of an image or lie outside the class folders%s",
            unused.total(),
            root,
            _counted(unused),
        )
    return rows


def _listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders and the files in a folder, sorted, without hidden ones and those that a Mac adds."""
    folders: list[Path] = []
    files: list[Path] = []
    try:
        for path in sorted(folder.iterdir()):
            if path.name[0] != "." and path.name != "__MACOSX":
                (folders if path.is_dir() else files).append(path)
    except OSError as error:
        raise _unreadable(error) from error
    return folders, files


def _images(folder: Path) -> tuple[list[str], Counter[str]]:
    """Return the images in a class's folder and below, sorted, and the endings of the other files there."""
    images: list[str] = []
    others: Counter[str] = Counter()

    def refuse(error: OSError) -> None:
        raise _unreadable(error) from error

    for where, _, names in os.walk(_encodable(str(folder)), onerror=refuse):
        for name in names:
            if name.lower().endswith(IMAGE_ENDINGS) and name[0] != ".":
                images.append(_encodable(os.path.join(where, name)))
            elif name[0] != "." and not name.lower().endswith(SIDE_ENDINGS):
                others[_ending(name)] += 1
    return sorted(images), others


def _unreadable(error: OSError) -> UserError:
    return UserError(f"{error.filename} cannot be read ({error.strerror}); change its permissions, or remove it")


def _encodable(path: str) -> str:
    """Return a path if it can be written as UTF-8, which ids, tables and digests need; else raise UserError."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the name of {os.fsencode(path)!r} is not UTF-8; rename it, e.g. with convmv -t utf-8"
        ) from error
    return path


def _ending(name: str) -> str:
    return ascii(os.path.splitext(name)[1].lower())[1:-1] or "no ending"


def _counted(endings: Counter[str]) -> str:
    """Return the endings and their counts in brackets, to end a sentence."""
    return f" ({listing(f'{ending} {count}' for ending, count in endings.most_common())})" if endings else ""


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
        group_column: column of lesion or, better, patient; an image with an empty cell is a separate group. None:
            neither is known, and near-duplicates are grouped. ``frame.attrs["group_column"]`` has the column's name.
        split_column_name: column with train, val or test, for ``protocol=official``, or None.
        near_duplicate_bits: see :func:`group_near_duplicates`.
        memory: folder that stores the perceptual hashes.
        on_bad_image: "error" or "skip", see :func:`skinkd.data.files.usable_images`.

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
    classes = tuple(sorted(set(rows[label_column])))
    if len(classes) < 2:
        raise UserError(f"{file}: {label_column!r} has only the class {classes[0]!r}; there must be two or more")
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
