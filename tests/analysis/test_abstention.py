"""Abstention in a comparison against plain counting over the runs."""

import numpy as np
import pytest
from run_factory import CLASSES, MakeRun

from skinkd.analysis.abstention import ALL, COVERAGE, abstention_lines, risk_lines
from skinkd.analysis.rows import Row, group_rows
from skinkd.analysis.runs import Run, read_runs


def row_of(make_run: MakeRun, **settings: int) -> Row:
    for seed in range(3):
        folder = make_run("kd", seed=seed, **settings)
    (row,) = group_rows(read_runs([folder.parent], output_dir=folder.parent).runs)
    return row


def kept(run: Run) -> np.ndarray:
    """Which test images are at least as sure as 80 % of the validation images, by sorting."""
    assert run.val is not None
    columns = [f"p_{name}" for name in run.classes]
    sure = sorted(run.val[columns].max(axis=1), reverse=True)
    return (run.test[columns].max(axis=1) >= sure[int(np.ceil(COVERAGE * len(sure))) - 1]).to_numpy()


def test_lines_are_means_of_the_runs_by_plain_counting(make_run: MakeRun) -> None:
    row = row_of(make_run)
    lines = abstention_lines(row).set_index("class")
    assert list(lines.index) == [*CLASSES, ALL]
    for name in lines.index:
        shares, found, of_kept = [], [], []
        for run in row.runs:
            own = np.ones(len(run.test), bool) if name == ALL else (run.test["label"] == name).to_numpy()
            right = (run.test["label"] == run.test["prediction"]).to_numpy()
            shares.append((kept(run) & own).sum() / own.sum())
            found.append((right & own).sum() / own.sum())
            of_kept.append((right & own & kept(run)).sum() / (kept(run) & own).sum())
            assert lines.loc[name, "n"] == own.sum()
        expected = [np.mean(shares), np.mean(found), np.mean(of_kept)]
        assert lines.loc[name, ["coverage", "accuracy", "accuracy_kept"]].tolist() == pytest.approx(expected)
    assert lines["aurc"].notna().tolist() == [False] * len(CLASSES) + [True]


def test_the_area_is_the_mean_risk_of_the_most_confident_images(make_run: MakeRun) -> None:
    row = row_of(make_run)
    areas, least = [], []
    for run in row.runs:
        sure = run.test[[f"p_{name}" for name in run.classes]].max(axis=1)
        wrong = (run.test["label"] != run.test["prediction"])[sure.sort_values(ascending=False).index].to_numpy(float)
        n = np.arange(1, len(wrong) + 1)
        areas.append((wrong.cumsum() / n).mean())
        least.append((np.sort(wrong).cumsum() / n).mean())
    line = abstention_lines(row).set_index("class").loc[ALL]
    assert line["aurc"] == pytest.approx(np.mean(areas))
    assert line["aurc_excess"] == pytest.approx(np.mean(areas) - np.mean(least))


def test_the_curve_ends_at_the_error_of_all_images(make_run: MakeRun) -> None:
    row = row_of(make_run)
    curve = risk_lines(row)
    errors = [(run.test["label"] != run.test["prediction"]).mean() for run in row.runs]
    assert curve["coverage"].iloc[-1] == 1 and curve["risk"].iloc[-1] == pytest.approx(np.mean(errors))
    assert curve["risk"].between(0, 1).all() and curve["coverage"].is_monotonic_increasing


def test_images_of_folds_add_up_and_a_run_without_validation_has_no_lines(make_run: MakeRun) -> None:
    for fold in (0, 1):
        folder = make_run("kd", data__fold=fold, data__folds=2, images=90)
    (row,) = group_rows(read_runs([folder.parent], output_dir=folder.parent).runs)
    assert abstention_lines(row).set_index("class").loc[ALL, "n"] == 180
    (folder / "predictions" / "val.csv").unlink()
    (row,) = group_rows(read_runs([folder.parent], output_dir=folder.parent).runs)
    assert abstention_lines(row).empty and len(risk_lines(row))
