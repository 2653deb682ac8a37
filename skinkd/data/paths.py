"""Paths in a user's table: the file that is meant, and why none is found where all are wrong."""

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from skinkd.data.files import IMAGE_ENDINGS
from skinkd.errors import UserError

_DROPPED = frozenset(("", "."))  # the first part of an absolute path is "" too
_TRIED = 50  # paths that are looked at before all are called wrong


def below(folder: str, path: str) -> str:
    """Return ``str(Path(folder) / path)``. A path without a part that pathlib drops is joined as text, which is quicker."""
    if folder != "/" and _DROPPED.isdisjoint(path.split("/")):
        return f"{folder}/{path}"
    return str(Path(folder) / path)


def on_disk(text: str) -> str:
    """Return the path as the disk has it: a Mac writes é in two characters, other systems in one."""
    if text.isascii() or os.path.exists(text):
        return text
    forms = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    return next((form for form in forms if os.path.exists(form)), text)


def explain_missing(paths: Sequence[str], root: Path, *, source: str) -> None:
    """Raise UserError, with the cause, if no path of a table exists; if some do, those that are missing are named later.

    Args:
        paths: of all images.
        root: the folder from which relative paths are taken.
        source: the table and its column, for the message.
    """
    some = list(paths[:: max(1, len(paths) // _TRIED)])
    if not some or any(os.path.exists(path) for path in some) or any(os.path.exists(path) for path in paths):
        return
    for fits, cause in _causes(root):
        found = next((path for path in some if fits(path)), None)
        if found is not None:
            raise UserError(f"{source}: none of the {len(paths)} images is there, such as {found}: {cause}")


def _causes(root: Path) -> list[tuple[Callable[[str], bool], str]]:
    """Return what may be wrong with every path, each with a test of a path, the likeliest first."""
    return [
        (
            lambda path: re.match(r"[A-Za-z]:[\\/]|\\\\", path.removeprefix(f"{root}/")) is not None,
            "the paths are those of a Windows machine; give paths relative to data.root, with /",
        ),
        (
            lambda path: re.match(r"(file|https?):/", path.removeprefix(f"{root}/")) is not None,
            "they are addresses; give paths of files on this machine",
        ),
        (
            lambda path: os.path.exists(path.replace("\\", "/")),
            "the paths have the backslashes of Windows; write / instead",
        ),
        (
            lambda path: any(
                os.path.exists(path + ending) for ending in (*IMAGE_ENDINGS, *map(str.upper, IMAGE_ENDINGS))
            ),
            "the paths lack the files' ending, such as .jpg; add it",
        ),
        (
            lambda path: _in_another_case(Path(path)),
            "the files' names differ in capital letters; write them as the disk has them",
        ),
        (
            lambda path: os.path.exists(os.path.relpath(path, root)),
            f"they are taken from {root}, and the files lie below {Path.cwd()}; set data.root={Path.cwd()}",
        ),
        (
            lambda path: (root / Path(path.replace("\\", "/")).name).exists(),
            f"the files lie in {root} itself; leave the folders out of the paths",
        ),
    ]


def _in_another_case(path: Path) -> bool:
    folder = path.parent
    if not folder.is_dir():
        return folder != folder.parent and _in_another_case(folder)
    return any(entry.name.lower() == path.name.lower() for entry in os.scandir(folder))
