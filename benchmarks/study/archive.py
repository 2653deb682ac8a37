"""The study's finished runs in one file, small enough to be committed: written, and unpacked again.

The archive is a ``.tar.xz`` of run folders, with ``PACKED`` of each: no weights, no images, no pictures. A run folder writes
all the digits of a float64 for a probability that is a float32. The archive has the fewest digits that give the float32 back
(nine at most), in ``predictions/<part>.float32.csv``; that halves its size. ``unpack`` restores ``predictions/<part>.csv``
byte for byte. Of ``environment.txt`` the archive has only what can change a number: no paths of the machine, and no packages
that skinkd does not use.
"""

import io
import lzma
import os
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

PACKED = ("metrics.json", "config.yaml", "history.csv", "splits.csv", "environment.txt", "predictions/*.csv")
TESTED = tuple("predictions/test.csv" if pattern == "predictions/*.csv" else pattern for pattern in PACKED)
"""The same without predictions on validation."""
SHORT = ".float32.csv"
FACTS = ("python ", "processor ", "torch threads ", "commit ", "gpu ")
PACKAGES = ("albumentations", "lightning", "numpy", "opencv-python-headless", "pandas", "scipy", "timm", "torch")
"""Beginnings of the lines, and packages, that stay of ``environment.txt``."""


def pack(folders: Sequence[Path], target: Path, *, preset: int, patterns: Sequence[str] = PACKED) -> None:
    """Write finished runs to an archive.

    Args:
        folders: run folders.
        target: the archive; what is there is replaced.
        preset: of xz, 1 (fast) to 9 (small).
        patterns: which files of a run folder.
    """
    began = time.monotonic()
    # a large dictionary, since the runs of a fold have the same splits and the same images
    filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": 1 << 26, "lc": 4, "lp": 0, "pb": 0}]
    unfinished = target.with_name(f"{target.name}.part")
    with lzma.open(unfinished, "wb", filters=filters) as packed, tarfile.open(fileobj=packed, mode="w|") as tar:
        for folder in folders:
            for file in sorted(file for pattern in patterns for file in folder.glob(pattern)):
                name, data = _entry(file)
                entry = tarfile.TarInfo(f"{folder.name}/{file.relative_to(folder).with_name(name)}")
                entry.size, entry.mtime = len(data), int(file.stat().st_mtime)
                tar.addfile(entry, io.BytesIO(data))
    unfinished.replace(target)
    size = target.stat().st_size / 2**20
    print(f"{target}: {len(folders)} runs, {size:.1f} MiB, in {time.monotonic() - began:.0f} s", flush=True)


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Restore the run folders of an archive below ``folder``, with their files' times; return them in order of name."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
        names = sorted({name.split("/")[0] for name in tar.getnames()})
    for name in names:
        for file in (folder / name).glob(f"predictions/*{SHORT}"):
            written = file.stat().st_mtime
            whole = file.with_name(f"{file.name.removesuffix(SHORT)}.csv")
            whole.write_text(restored(file.read_text(encoding="utf-8")), encoding="utf-8")
            os.utime(whole, (written, written))
            file.unlink()
    return [folder / name for name in names]


def shortened(text: str) -> str | None:
    """A table of predictions (CSV) with the fewest digits that give its float32 probabilities back.

    None where ``restored`` would not return ``text``, as of a table whose probabilities are not float32.
    """
    table, columns = _read(text)
    if not columns:
        return None
    table[columns] = table[columns].astype(np.float64).astype(np.float32)
    short = table.to_csv(index=False)
    return short if restored(short) == text else None


def restored(short: str) -> str:
    """The table that ``shortened`` was given."""
    table, columns = _read(short)
    table[columns] = table[columns].astype(np.float32).astype(np.float64)
    return table.to_csv(index=False)


def packed_environment(text: str) -> str:
    """``environment.txt`` with the lines of ``FACTS`` and ``PACKAGES`` alone."""
    kept = [line for line in text.splitlines() if line.startswith(FACTS) or line.partition("==")[0] in PACKAGES]
    return "".join(f"{line}\n" for line in kept)


def _entry(file: Path) -> tuple[str, bytes]:
    """The name and the content that a file has in the archive."""
    data = file.read_bytes()
    if file.name == "environment.txt":
        return file.name, packed_environment(data.decode()).encode()
    if file.parent.name == "predictions" and (short := shortened(data.decode())) is not None:
        return f"{file.stem}{SHORT}", short.encode()
    return file.name, data


def _read(text: str) -> tuple[pd.DataFrame, list[str]]:
    """The table as text, and the names of its columns of probabilities."""
    table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    return table, [column for column in table.columns if column.startswith("p_")]
