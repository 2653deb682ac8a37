"""The study in W&B: what a stand-in for the server holds, and that the command given again adds nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from run_factory import MakeRun
from wandb_server import WandbServer

from skinkd.analysis.runs import Run, read_runs
from study.collect import Collected, Runs
from study.dashboard import PROJECT, build_report, build_workspace, log_run, publish_study
from study.verdicts import compared


@pytest.fixture(autouse=True)
def _no_other_client() -> Iterator[None]:
    """W&B's client of this process forgets the account of the tests before."""
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def collected(make_run: MakeRun, tmp_path: Path) -> Collected:
    """Two rows on two folds."""
    found: Runs = {}
    for row, skill in (("supervised", 1.0), ("swskd", 1.3)):
        folders = [make_run(row, skill=skill, data__fold=fold, data__folds=2) for fold in (0, 1)]
        runs = read_runs(folders, output_dir=tmp_path / "outputs").runs
        found[row] = {run.place: run for run in runs}
    return Collected(found, (), (), ())


def check_run(server: WandbServer, run: Run) -> None:
    """The stand-in has a run's row, scores and curve once."""
    stored = server.runs[f"study-{run.folder.name.rpartition('-')[2]}"]
    assert stored.config["row"] == run.config["method"]["name"] and stored.exit_code == 0
    assert {name: stored.summary[name] for name in run.metrics} == pytest.approx(run.metrics)
    curve = [row["val/accuracy"] for row in stored.history if "val/accuracy" in row]
    assert curve == pytest.approx(run.history["val/accuracy"].tolist())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    with WandbServer() as listening:
        for name, value in listening.environment.items():
            monkeypatch.setenv(name, value)
        yield listening


def test_a_run_that_is_logged_again_is_there_once(collected: Collected, server: WandbServer) -> None:
    run = collected.runs["swskd"][0, 0]
    for _ in range(2):
        assert log_run(run, "swskd") in server.runs
        check_run(server, run)
    assert len(server.runs) == 1 and server.unknown == []


def test_report_and_workspace_show_these_runs_by_row(collected: Collected) -> None:
    methods, ids = [compared(collected, "swskd", "supervised")], ["study-1", "study-2"]
    report = build_report(collected, methods, "- `swskd`: the answer", entity="us", ids=ids)
    texts = [block.text for block in report.blocks if type(block).__name__ == "MarkdownBlock"]
    assert texts[0] == "- `swskd`: the answer" and "not settled (2 of 5 folds)" in texts[1]
    (grid,) = [block for block in report.blocks if type(block).__name__ == "PanelGrid"]
    (runset,) = grid.runsets
    assert runset.groupby == ["config.row"] and all(one in runset.filters for one in ids)
    workspace = build_workspace(entity="us", ids=ids)
    (view,) = workspace._to_model().spec.section.run_sets
    assert {key.name for key in view.grouping} == {"row.value"} and all(one in str(view.filters) for one in ids)
    assert [panel.title for panel in workspace.sections[0].panels] == [panel.title for panel in grid.panels[:4]]


@pytest.mark.slow
def test_the_runs_a_report_and_a_workspace_are_there(collected: Collected, server: WandbServer) -> None:
    addresses = publish_study(collected, [compared(collected, "swskd", "supervised")], "- `swskd`: the answer")
    assert len(server.runs) == 4 and server.unknown == []
    for run in collected.every:
        check_run(server, run)
    assert set(addresses) == {"report", "workspace"} and PROJECT in addresses["report"]
    for view in server.views:
        assert all(name in view["spec"] for name in server.runs) and view["projectName"] == PROJECT
    assert len(server.views) == 2 and "the answer" in server.views[0]["spec"]


def test_without_an_account_nothing_is_logged(collected: Collected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(SystemExit, match="wandb login"):
        publish_study(collected, [compared(collected, "swskd", "supervised")], "")
    assert wandb.run is None
