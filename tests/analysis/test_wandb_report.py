"""The report and the workspace in W&B: exactly the runs that were compared, one group for each row."""

from pathlib import Path

import pytest
import yaml
from run_factory import MakeRun, config_in, maker
from wandb_workspaces.expr import groupby_str_to_key

from skinkd.analysis.comparison import Comparison, compare
from skinkd.analysis.report import markdown_tables
from skinkd.analysis.rows import group_rows
from skinkd.analysis.runs import read_runs
from skinkd.analysis.wandb_report import build_report, build_workspace, grouping, logged_runs
from skinkd.errors import UserError


def compared(*folders: Path) -> Comparison:
    return compare(group_rows(read_runs(folders, output_dir=folders[0].parent).runs))


def log(folder: Path) -> Path:
    (folder / "wandb_run_id").write_text(f"id-{folder.name}\n")
    return folder


def test_a_run_that_was_not_logged_is_named(make_run: MakeRun) -> None:
    logged, other = log(make_run("supervised")), make_run("kd")
    with pytest.raises(UserError, match=rf"1 of 2 runs were not logged .*\({other.name}\); leave them out"):
        logged_runs(compared(logged, other))
    log(other)
    assert len(logged_runs(compared(logged, other))[2]) == 2


def test_a_run_that_was_resumed_with_another_logger_is_named(make_run: MakeRun) -> None:
    """Its W&B run has neither its last epochs nor its test scores, and its configuration has no project."""
    logged, other = log(make_run("supervised")), log(make_run("kd"))
    config = yaml.safe_load((other / "config.yaml").read_text())
    (other / "config.yaml").write_text(yaml.safe_dump(config | {"logger": {"kind": "csv"}}))
    with pytest.raises(UserError, match=rf"1 of 2 runs were not logged .*\({other.name}\)"):
        logged_runs(compared(logged, other))
    with pytest.raises(UserError, match="none of these runs was logged"):
        logged_runs(compared(other))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two networks of one method and four settings of another, two seeds each: six rows; for reading only."""
    make_run, folders = maker(config_in(tmp_path_factory.mktemp("several"))), []
    for seed in (0, 1):
        for name in ("resnet18", "resnet50"):
            folders.append(make_run("supervised", seed=seed, backbone__name=name))
        for ratio, warmup in ((0.1, 0), (0.1, 3), (0.5, 0), (1.0, 0)):
            settings = {"method__ratio": ratio, "method__warmup_epochs": warmup}
            folders.append(make_run("tsskd", seed=seed, **settings))
    return compared(*(log(folder) for folder in folders))


def test_runs_are_grouped_by_the_settings_that_tell_rows_apart(several: Comparison) -> None:
    names = grouping(several.rows)
    assert sorted(names) == ["backbone.name", "method.name", "method.ratio", "method.warmup_epochs"]
    assert len({str([row.settings.get(name) for name in names]) for row in several.rows}) == 6


def test_report_and_workspace_have_a_group_for_each_row_and_show_its_runs(several: Comparison) -> None:
    """The runset has every setting, and no panel has a grouping of its own, which would replace it."""
    entity, project, ids = logged_runs(several)
    assert (entity, project) == (None, "skinkd")
    assert sorted(ids) == sorted(f"id-{run.folder.name}" for row in several.rows for run in row.runs)
    expected = {f"{top}.value.{rest}" for top, _, rest in (name.partition(".") for name in grouping(several.rows))}
    report = build_report(several, entity="us", project=project, ids=ids)
    (grid,) = [block for block in report.blocks if type(block).__name__ == "PanelGrid"]
    (runset,) = grid.runsets
    assert all(repr(one) in runset.filters for one in ids)
    kinds = [type(panel).__name__ for panel in grid.panels]
    assert (kinds.count("BarPlot"), kinds.count("LinePlot"), kinds.count("ScatterPlot")) == (5, 3, 2)
    texts = [block.text for block in report.blocks if type(block).__name__ == "MarkdownBlock"]
    assert texts[0] == markdown_tables(several)["scores"]
    keys = [groupby_str_to_key(name) for name in runset.groupby]  # W&B itself is not asked, as Runset's model would be
    assert {(key.section, key.name) for key in keys} == {("config", name) for name in expected}
    workspace = build_workspace(several, entity="us", project=project, ids=ids)
    assert "=" in report.title and workspace.name == report.title.replace("=", " ")  # a view's name may have no symbols
    sent = workspace._to_model()
    for word in (*ids, "method.value.name", "test/balanced_accuracy", "val/auroc_macro", "macs"):
        assert word in sent.model_dump_json()
    (view,) = sent.spec.section.run_sets
    assert {key.name for key in view.grouping} == expected
    panels = [*grid.panels, *(panel for section in workspace.sections for panel in section.panels)]
    assert not [panel for panel in panels if getattr(panel, "groupby", None)]
    assert {f"config:{name}" for name in expected} <= set(runset.pinned_columns)


def test_rows_of_different_methods_are_grouped_by_method_alone(make_run: MakeRun) -> None:
    assert grouping(compared(make_run("supervised"), make_run("kd")).rows) == ["method.name"]
    assert grouping(compared(make_run("supervised")).rows) == ["method.name"]
