"""Text in the tables of a run: harmless in a spreadsheet, and the same when it is read again."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinkd.runs.cells import harmless, original
from skinkd.runs.folder import RunFolder
from skinkd.scoring.predictions import prediction_table, read_predictions

FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "'=1", "''+x", "\t=1", "-", "=")


@given(st.text(alphabet="'=+-@\t\r1a.e", max_size=6))
def test_every_text_comes_back_and_none_is_a_formula(text: str) -> None:
    written = harmless(text)
    assert original(written) == text
    if written[:1] in ("=", "+", "-", "@", "\t", "\r"):
        float(written)


def test_numbers_and_plain_text_stay() -> None:
    for cell in (-1.5, 3, None, True, "nv", "-5", "+3.0", "-1e-3", "a=b", "'quoted'", ""):
        assert harmless(cell) is cell


def test_the_predictions_of_such_names_are_read_again(tmp_path: Path) -> None:
    classes = ("=mel", "+nv", "plain")
    count = len(FORMULAS)
    probability = np.random.default_rng(0).dirichlet(np.ones(3), size=count)
    rows = pd.DataFrame({"image_id": FORMULAS, "group": FORMULAS, "label": [classes[k % 3] for k in range(count)]})
    table = prediction_table(rows, np.arange(count), probability, classes)
    file = RunFolder(tmp_path).write_csv("predictions/test.csv", table)
    again, names = read_predictions(file)
    assert names == list(classes)
    pd.testing.assert_frame_equal(again, table, check_dtype=False)
    with file.open(newline="") as opened:
        cells = [cell for row in csv.reader(opened) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t")) or cell.startswith("-")]


@pytest.mark.parametrize("column", [["nv", "mel"], [1, 2], [0.1, -0.2], [None, "x"], [True, False]])
def test_other_tables_keep_their_bytes(column: list[object], tmp_path: Path) -> None:
    frame = pd.DataFrame({"name": column, "value": [-1.0, float("nan")]})
    assert RunFolder(tmp_path).write_csv("t.csv", frame).read_text() == frame.to_csv(index=False)
