"""Paths of a table below its folder: those that pathlib gives."""

from pathlib import Path

import pytest

from skinkd.data.paths import below

CELLS = [
    "a.jpg",
    "a/b.jpg",
    "./a.jpg",
    "a//b.jpg",
    "a/./b.jpg",
    "a/",
    "/else/a.jpg",
    "//a.jpg",
    "../a.jpg",
    "a/../b.jpg",
]
CELLS += [".", "", ".hidden/a.jpg", "a/..", "a b/é.jpg", "~/a.jpg", "C:\\a.jpg", "a.jpg#0,4,4,3"]


@pytest.mark.parametrize("folder", ["/data", "/", "/data/deep er"])
@pytest.mark.parametrize("cell", CELLS)
def test_it_is_pathlibs(folder: str, cell: str) -> None:
    assert below(folder, cell) == str(Path(folder) / cell)
