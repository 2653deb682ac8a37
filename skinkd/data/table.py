"""The shape that every dataset is brought to: a table of images, each with a class and a group."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from skinkd.data.csv_file import parse_csv
from skinkd.errors import UserError, nearest

UNLABELLED_COLUMNS = ("image_id", "path")
COLUMNS = (*UNLABELLED_COLUMNS, "label", "group")
SUBGROUPS = ("sex", "age", "body_site", "confirmation")
"""Columns that a dataset may add, for scores by subgroup: str, "" if unknown. The age is in years; confirmation is how the
diagnosis was made certain. No split, training or metric of a run reads them."""
_UNKNOWN = ("", "unknown", "nan", "na")


@dataclass(frozen=True)
class ImageTable:
    """Images of one dataset, one row each, sorted by ``image_id``.

    Attributes:
        name: the dataset's name, for messages and files.
        classes: class names; their order is the order of logits and of every per-class number.
        frame: ``image_id`` (str, unique), ``path`` (str), ``label`` (int64 index into ``classes``), ``group``
            (str: images of one group show the same lesion and belong in one part of a split), and any further
            columns of the dataset (``official_split``, those of ``SUBGROUPS``, …). The index is 0..n-1.

    Raises:
        UserError: no images, an id used twice, or a label outside ``classes``.
    """

    name: str
    classes: tuple[str, ...]
    frame: pd.DataFrame

    def __post_init__(self) -> None:
        """Check the rows and bring them to the order and types promised above."""
        if isinstance(self.classes, str):
            raise UserError(
                f"the dataset {self.name!r} has the text {self.classes!r} for its classes; give a tuple of their names"
            )
        if len(set(self.classes)) != len(self.classes):
            raise UserError(f"the dataset {self.name!r} names a class twice: {', '.join(self.classes)}; name each once")
        frame = _checked(self.name, self.frame, COLUMNS).astype({"group": str})
        try:
            frame = frame.astype({"label": np.int64})
        except ValueError:
            raise UserError(
                f"the dataset {self.name!r} has labels that are no whole numbers; a label is the place of its class in "
                f"{', '.join(self.classes)}, counted from 0"
            ) from None
        outside = sorted(set(frame["label"]) - set(range(len(self.classes))))
        if outside:
            raise UserError(
                f"the dataset {self.name!r} has the labels {outside} outside its {len(self.classes)} classes"
            )
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "frame", frame)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.frame)


@dataclass(frozen=True)
class UnlabelledTable:
    """Images to predict the classes of, one row each, sorted by ``image_id``; nothing is known of their classes.

    Attributes:
        name: for messages and files.
        frame: ``image_id`` (str, unique) and ``path`` (str), and no other column. The index is 0..n-1.

    Raises:
        UserError: no images, or an id used twice.
    """

    name: str
    frame: pd.DataFrame

    def __post_init__(self) -> None:
        """Check the rows and bring them to the order and types promised above."""
        frame = _checked(self.name, self.frame, UNLABELLED_COLUMNS)
        object.__setattr__(self, "frame", frame[list(UNLABELLED_COLUMNS)])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.frame)


def _checked(name: str, frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the rows sorted by ``image_id``; raise UserError if there is none, or an id is used twice."""
    absent = [column for column in columns if column not in frame.columns]
    if absent:
        raise UserError(
            f"the dataset {name!r} has no column {', '.join(absent)}; a table of images has {', '.join(columns)}"
        )
    if frame.empty:
        raise UserError(f"the dataset {name!r} has no images; check data.root and its metadata")
    frame = frame.astype({"image_id": str, "path": str})
    repeated = frame["image_id"][frame["image_id"].duplicated()].unique()
    if len(repeated):
        raise UserError(
            f"{len(repeated)} image ids of the dataset {name!r} appear more than once "
            f"({listing(repeated)}); each image needs an id of its own"
        )
    return frame.sort_values("image_id", kind="stable", ignore_index=True)


def listing(names: Iterable[object], *, shown: int = 5) -> str:
    """Return the first few names joined by commas, and how many more there are."""
    every = [str(name) for name in names]
    more = len(every) - shown
    return ", ".join(every[:shown]) + (f" and {more} more" if more > 0 else "")


def subgroup_columns(rows: pd.DataFrame, names: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the columns of ``SUBGROUPS`` that a metadata file has; a cell that says "unknown" becomes "".

    Args:
        rows: the file, as :func:`read_csv` returns it.
        names: column of ``SUBGROUPS`` -> name of the column in the file. A column that the file lacks, or has twice, is
            left out.
    """
    header = rows.columns.tolist()
    return {
        column: ["" if cell.lower() in _UNKNOWN else cell for cell in rows[own]]
        for column, own in names.items()
        if header.count(own) == 1
    }


def class_labels(names: Sequence[str], classes: Sequence[str], *, source: Path, column: str) -> np.ndarray:
    """Return the index of each name in ``classes``, int64.

    Raises:
        UserError: a name is no class.
    """
    index = {name: label for label, name in enumerate(classes)}
    unknown = sorted({name for name in names if name not in index})
    if unknown:
        rows = sum(name == unknown[0] for name in names)
        raise UserError(
            f"{source}: {column}={unknown[0]!r} ({rows} rows) is not a class of this dataset"
            f"{nearest(unknown[0], classes)}"
        )
    return np.array([index[name] for name in names], dtype=np.int64)


def check_case(names: Iterable[str], source: str, what: str) -> None:
    """Raise UserError if two class names look alike: nobody can tell whether they are one class.

    They differ in capital letters, in the kind of their spaces, or in characters that are not seen.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        seen = "".join(character for character in name if unicodedata.category(character) != "Cf")
        groups.setdefault(" ".join(seen.split()).casefold(), []).append(name)
    alike = next((group for group in groups.values() if len(group) > 1), None)
    if alike:
        capitals = len({name.casefold() for name in alike}) == 1
        raise UserError(
            f"{source}: the {what} {' and '.join(map(ascii if not capitals else repr, alike))} differ in "
            f"{'capital letters' if capitals else 'spaces or characters that are not seen'} only; give them one name, or, if "
            "they are different classes, names that differ more"
        )


MISSING_WORDS = frozenset(
    (
        "",
        "na",
        "n.a.",
        "n.a",
        "n/a",
        "#n/a",
        "<na>",
        "nan",
        "nat",
        "none",
        "null",
        "nil",
        "-",
        "--",
        "?",
        ".",
        "missing",
    )
)
"""What programs and people write into a cell whose value they do not know, in lower case."""


def is_missing(cell: str) -> bool:
    """Return whether a cell says that there is no value."""
    return cell.strip().lower() in MISSING_WORDS


PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def split_column(names: Iterable[str], source: Path) -> list[str]:
    """Return "train", "val" or "test" for each cell of a split column, in any case; "" stays "".

    Raises:
        UserError: another word.
    """
    words = [str(name).lower() for name in names]
    unknown = sorted({word for word in words if word and word not in PART_NAMES})
    if unknown:
        raise UserError(f"{source}: {unknown[0]!r} is not a part of a split{nearest(unknown[0], PART_NAMES)}")
    return [PART_NAMES.get(word, "") for word in words]


def read_csv(
    path: Path, *, required: Sequence[str], optional_cells: Sequence[str] = (), may_be_empty: bool = False
) -> pd.DataFrame:
    """Read a metadata file as text: every cell is a stripped str, never a number or a missing value.

    See :func:`skinkd.data.csv_file.parse_csv` for what it may look like.

    Args:
        path: the file.
        required: columns that must exist and have no empty cell.
        optional_cells: columns that must exist and may have empty cells.
        may_be_empty: whether a header without rows is allowed.

    Raises:
        UserError: the file cannot be read or is empty; a column is absent or there twice; a row has more or fewer
            cells than the header; a quote is not closed; a required cell is empty. The message names the line.
    """
    header, rows = parse_csv(path)
    required, optional_cells = [str(name) for name in required], [str(name) for name in optional_cells]
    columns = (*required, *optional_cells)
    absent = [column for column in columns if column not in header]
    if absent:
        alike = [repr(name) for name in header if name.lower() in [column.lower() for column in absent]]
        hint = f" ({' and '.join(alike)} differ in capital letters)" if alike else ""
        raise UserError(
            f"{path} has no column {', '.join(map(repr, absent))}{hint}; it needs {', '.join(columns)} and has "
            f"{listing(header, shown=12)}"
        )
    for column in columns:
        if header.count(column) > 1:
            raise UserError(f"{path} has the column {column!r} more than once; keep one of them")
    if not rows and not may_be_empty:
        raise UserError(f"{path} has a header and no rows; replace it by the complete file")
    frame = pd.DataFrame([cells for _, cells in rows], columns=header, dtype=str)
    for column in required:
        empty = np.flatnonzero((frame[column] == "").to_numpy())
        if len(empty):
            raise UserError(
                f"{path}, line {rows[empty[0]][0]}: {column!r} is empty ({len(empty)} such rows); fill it in "
                "or remove the rows"
            )
    return frame
