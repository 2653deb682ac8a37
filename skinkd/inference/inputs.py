"""The images that ``input=`` names: one image, a folder, a pattern or a CSV."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from skinkd.data.files import IMAGE_ENDINGS
from skinkd.data.table import read_csv
from skinkd.errors import UserError
from skinkd.runs.cells import original

COLUMNS = ("path", "image")
"""Columns of a CSV that may hold the images' paths."""
_ALSO_LISTED = (".avif", ".dcm", ".dicom", ".gif", ".heic", ".heif", ".jp2", ".svg")
"""Endings of images in a folder that are not decoded: each becomes a row that says so."""


def find_inputs(given: str) -> tuple[list[str], str]:
    """Return the paths of the images that ``input`` names, and how to read them from it, in words.

    A folder is searched with all folders in it, for files with an image's ending; hidden files and folders are left out. A
    pattern takes every file that fits it. A CSV has a column ``path`` or ``image``, relative to the CSV's folder. Paths
    are sorted, but those of a CSV, which keep their order. No image is read.

    Raises:
        UserError: there is nothing by this name, or it holds no image.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        found = _in_folder(path)
        if not found:
            raise UserError(f"input={given} is a folder without images; their names end in {', '.join(IMAGE_ENDINGS)}")
        return found, f"the folder {given}"
    if os.path.lexists(path):
        return (_of_csv(path), f"the CSV {given}") if path.suffix.lower() == ".csv" else ([str(path)], "one image")
    if glob.has_magic(given):
        found = [name for name in sorted(glob.glob(str(path), recursive=True)) if not os.path.isdir(name)]
        if found:
            return found, f"the pattern {given}"
    raise UserError(
        f"input={given} is neither an image, a folder, a CSV nor a pattern that fits a file; check the path"
    )


def _in_folder(folder: Path) -> list[str]:
    found: list[str] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            os.path.join(place, name)
            for name in names
            if not name.startswith(".") and name.lower().endswith((*IMAGE_ENDINGS, *_ALSO_LISTED))
        ]
    return sorted(found)


def _of_csv(file: Path) -> list[str]:
    table = read_csv(file, required=())
    column = _path_column(list(table.columns), file)
    names = [str(original(cell)) for cell in read_csv(file, required=[column])[column]]
    return [str(file.parent / Path(name).expanduser()) for name in names]


def _path_column(columns: Sequence[str], file: Path) -> str:
    for name in COLUMNS:
        if name in columns:
            return name
    raise UserError(f"input={file} has no column {' or '.join(map(repr, COLUMNS))}; it has {', '.join(columns)}")
