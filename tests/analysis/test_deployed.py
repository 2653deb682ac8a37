"""Exports of runs in a comparison: means over runs, a table and a plot; nothing where there is no export."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from run_factory import MakeRun

from skinkd.analysis.comparison import Comparison, compare
from skinkd.analysis.deployed import COLUMNS
from skinkd.analysis.report import html, markdown, wide_scores
from skinkd.analysis.rows import group_rows
from skinkd.analysis.runs import read_runs
from skinkd.errors import UserError


def give_export(run: Path, *, ms: float, mb: float, accuracy: float) -> None:
    """What an export leaves in its run folder, as far as a comparison reads it."""
    rows = [
        {"name": "size_mb", "fp32": 4 * mb, "int8": mb},
        {"name": "latency_1_ms", "fp32": 2 * ms, "int8": ms},
        {"name": "accuracy", "fp32": accuracy + 0.01, "int8": accuracy},
        {"name": "balanced_accuracy", "fp32": accuracy - 0.1, "int8": accuracy - 0.2},
    ]
    (run / "export").mkdir()
    (run / "export" / "before_after.json").write_text(json.dumps({"rows": rows}))


@pytest.fixture
def runs(make_run: MakeRun) -> list[Path]:
    return [make_run(method, seed=seed) for method in ("supervised", "kd") for seed in (0, 1)]


def compared(runs: list[Path]) -> Comparison:
    return compare(group_rows(read_runs(runs, output_dir=runs[0]).runs))


def test_means_are_over_the_runs_with_an_export(runs: list[Path]) -> None:
    for run, ms in zip(runs, (1.0, 3.0, 8.0), strict=False):
        give_export(run, ms=ms, mb=10.0, accuracy=0.7 + ms / 100)
    comparison = compared(runs)
    lines = comparison.deployed.set_index("row")
    assert tuple(comparison.deployed.columns) == COLUMNS
    assert lines.loc["supervised", "exports"] == 2 and lines.loc["kd", "exports"] == 1
    assert lines.loc["supervised", "latency_1_ms_int8"] == pytest.approx(2.0)
    assert lines.loc["supervised", "latency_1_ms_fp32"] == pytest.approx(4.0)
    assert lines.loc["supervised", "accuracy_int8"] == pytest.approx(0.72)
    assert lines.loc["kd", "size_mb_fp32"] == pytest.approx(40.0)
    wide = wide_scores(comparison).set_index("row")
    assert wide.loc["kd", "balanced_accuracy_int8"] == pytest.approx(0.58) and "ece_mean" in wide
    text = markdown(comparison, [])
    assert "## Once exported" in text and "| kd | 1 | 16.0 | 8.00 | 40.0 | 10.0 | 0.790 | 0.780 |" in text
    page = html(comparison, [])
    assert 'id="deployed"' in page
    (svg,) = [svg for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL) if 'id="deployed-' in svg]
    assert "latency of one image, ms" in svg and "size, MB" in svg


def test_a_row_without_an_export_among_others(runs: list[Path]) -> None:
    give_export(runs[0], ms=1.0, mb=1.0, accuracy=0.5)
    wide = wide_scores(compared(runs)).set_index("row")
    assert np.isnan(wide.loc["kd", "size_mb_int8"]) and wide.loc["supervised", "size_mb_int8"] == 1.0


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": [{"name": "size_mb"}]}'])
def test_a_damaged_export_is_named(make_run: MakeRun, text: str) -> None:
    run = make_run("supervised")
    (run / "export").mkdir()
    (run / "export" / "before_after.json").write_text(text)
    with pytest.raises(UserError, match=r"before_after\.json cannot be read .*export the run again with force=true"):
        compared([run])
