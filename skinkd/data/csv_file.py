"""Reads the cells of a CSV, as programs of all kinds write it, and says what a file is that is no CSV."""

import codecs
import csv
import io
import re
from pathlib import Path

from skinkd.errors import UserError

_KINDS = (
    (b"PK\x03\x04", "a spreadsheet (.xlsx, .ods) or a ZIP archive", "save its table as CSV"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet of old Excel (.xls)", "save its table as CSV"),
    (b"PAR1", "a Parquet file", "write it as CSV, in pandas with read_parquet(…).to_csv(…, index=False)"),
    (b"ARROW1", "an Arrow file", "write it as CSV"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it with gunzip"),
    (b"BZh", "compressed with bzip2", "unpack it with bunzip2"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it with unxz"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with unzstd"),
    (b"SQLite format 3", "a database", "export its table as CSV"),
    (b"\x89HDF", "an HDF5 file", "write its table as CSV"),
    (b"%PDF", "a PDF", "give the table as CSV"),
    (b"<", "a web page or XML", "download the file itself"),
    (b"{", "JSON", "write its table as CSV"),
    (b"[", "JSON", "write its table as CSV"),
    (b"FEA1", "a Feather file", "write it as CSV"),
    (b"\x93NUMPY", "an array of NumPy", "write it as CSV"),
    *((b"\x80" + bytes([protocol]), "a pickle of Python", "write its table as CSV") for protocol in (2, 3, 4, 5)),
)
_SEPARATORS = ",;\t|"


def parse_csv(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header and, for every other row that is not blank, its line number and cells.

    The file may be UTF-8, UTF-16 with a byte-order mark, or Latin-1, with any line ending and with quoted cells. Commas,
    semicolons, tabs or ``|`` separate the cells, whichever the header has most of, or what Excel's first line ``sep=;`` names.
    Cells are stripped. Empty cells at the end of a row that the header lacks are left out.

    Raises:
        UserError: the file cannot be read, is empty or is no CSV, a row has more or fewer cells than the header, or a quote is
            not closed. The message names the line.
    """
    text = _decode(path).replace("\0", "")
    if not text.strip():
        raise UserError(f"{path} is empty; download it again")
    lines = io.StringIO(text, newline="")
    hint = re.match(r'\s*"?sep=(.)"?[ \t]*(\r\n|\r|\n)', text)
    if hint:
        lines.seek(hint.end())
    first = text[hint.end() if hint else 0 :].lstrip().splitlines()[:1]
    separator = hint[1] if hint else max(_SEPARATORS, key=first[0].count)
    reader = csv.reader(lines, delimiter=separator, strict=True, skipinitialspace=separator != " ")
    before = int(bool(hint))
    rows: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            cells = list(map(str.strip, cells))
            if any(cells):
                rows.append((reader.line_num + before, cells))
    except csv.Error as error:
        line = reader.line_num + before
        raise UserError(f"{path}, line {line}: {error}; correct the quotes of that line") from error
    if not rows:
        raise UserError(f"{path} has only empty cells; download it again")
    header = rows[0][1]
    for line, cells in rows:
        while len(cells) > len(header) and not cells[-1]:
            cells.pop()
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {line} has {len(cells)} cells, and the header has {len(header)}; correct the line"
            )
    return header, rows[1:]


def _decode(path: Path) -> str:
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the CSV in it, or data=folder for folders of images")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    for start, kind, remedy in _KINDS:
        if data.lstrip()[: len(start)] == start:
            raise UserError(f"{path} is no CSV but {kind}; {remedy}, and give that file")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")
