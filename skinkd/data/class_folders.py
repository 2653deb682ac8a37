"""Images in folders that are named by class: what is an image of a class there, and what other programs leave beside them."""

import logging
import os
import unicodedata
from collections import Counter
from pathlib import Path

import pandas as pd

from skinkd.data.files import IMAGE_ENDINGS
from skinkd.data.table import PART_NAMES, check_case, listing, split_column
from skinkd.errors import UserError

log = logging.getLogger(__name__)

_DEEPEST = 5  # folders in each other above the class folders that are looked for
# of files that often lie next to images; they are ignored without a warning
SIDE_ENDINGS = (".csv", ".tsv", ".txt", ".md", ".json", ".xml", ".yaml", ".html", ".pdf", ".xlsx", ".db", ".ini")

LITTER = frozenset(
    {
        *("__macosx", "__pycache__", "lost+found", "found.000"),
        *("$recycle.bin", "recycler", "recycled", "system volume information", "#recycle", "@recycle", "#snapshot"),
        *(
            "@eadir",
            "@tmp",
            "@recently-snapshot",
            "@syno",
            "thumbnails",
            "_thumbnails",
            "thumbs",
            "_thumbs",
            "thumbs.db",
        ),
    }
)
"""Folders and files that systems, network drives and notebooks make, in lower case. Hidden ones are left out anyway."""


def is_litter(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or is one of ``LITTER``."""
    return name.startswith(".") or name.lower() in LITTER


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
    check_case(classes, str(root), "class folders")
    if len(classes) < 2:
        raise UserError(
            f"{root} has images ({', '.join(IMAGE_ENDINGS)}) of {len(classes)} classes; it needs one folder of images "
            f"for each of two classes or more{_deeper(root, parts)}"
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
        _warn_of_a_nested_root(folders)
        for folder in folders:
            images, others = _images(folder, root)
            # a Mac writes é in two characters, other systems in one
            rows += [(path, unicodedata.normalize("NFC", folder.name), part) for path in images]
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
            "%d files under %s are not used, as they have no ending of an image, lie outside the class folders, or are links "
            "that lead back%s",
            unused.total(),
            root,
            _counted(unused),
        )
    return rows


def _deeper(root: Path, parts: list[str]) -> str:
    """Return the end of the error for too few classes: the folder that holds the class folders, if it is deeper."""
    for part in parts or [""]:
        place = root / part
        for _ in range(_DEEPEST):
            tops = _listed(place)[0]
            if len(tops) != 1:
                break
            place = tops[0]
        holding = _holding(place)
        if place != root / part and len(holding) > 1:
            found = f"{place} holds the folders {listing(holding)}"
            move = f"move these folders up into {root / part}" if part else f"give data.root={place}"
            return f"; {found}: if these are the classes, {move}"
    return ""


def _holding(folder: Path) -> list[str]:
    """Return the names of the folders in a folder that hold images, at any depth."""
    return [inner.name for inner in _listed(folder)[0] if _images(inner, inner)[0]]


def _warn_of_a_nested_root(folders: list[Path]) -> None:
    """Warn of a class folder that itself holds folders with images and no image, where other class folders hold images."""
    direct = [any(file.name.lower().endswith(IMAGE_ENDINGS) for file in _listed(folder)[1]) for folder in folders]
    for folder, has_images in zip(folders, direct, strict=True):
        holding = [] if has_images or not any(direct) else _holding(folder)
        if len(holding) > 1:
            log.warning(
                "the class folder %s holds no image itself but the folders %s; if these are the classes, give data.root=%s",
                folder,
                listing(holding),
                folder,
            )


def _listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders and the files in a folder, sorted, without litter."""
    folders: list[Path] = []
    files: list[Path] = []
    try:
        for path in sorted(folder.iterdir()):
            if not is_litter(path.name):
                (folders if path.is_dir() else files).append(path)
    except OSError as error:
        raise _unreadable(error) from error
    return folders, files


def _images(folder: Path, root: Path) -> tuple[list[str], Counter[str]]:
    """Return the images in a class's folder and below, sorted, and the endings of the other files there.

    Links to folders are followed, unless they lead back below ``root`` or to a folder that was visited: its images would
    come twice, or without end.
    """
    images: list[str] = []
    others: Counter[str] = Counter()
    home, visited = os.path.realpath(root), {os.path.realpath(folder)}

    def refuse(error: OSError) -> None:
        raise _unreadable(error) from error

    for where, names, files in os.walk(_encodable(str(folder)), onerror=refuse, followlinks=True):
        for name in sorted(names):
            path = os.path.join(where, name)
            real = os.path.realpath(path)
            leads_back = os.path.islink(path) and (
                f"{real}/".startswith(f"{home}/") or f"{home}/".startswith(f"{real}/")
            )
            if is_litter(name) or leads_back or real in visited:
                names.remove(name)
                others["link"] += int(not is_litter(name))
            visited.add(real)
        for name in files:
            if is_litter(name):
                continue
            if name.lower().endswith(IMAGE_ENDINGS):
                images.append(_encodable(os.path.join(where, name)))
            elif not name.lower().endswith(SIDE_ENDINGS):
                others[_ending(name)] += 1
    return sorted(images), +others


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
