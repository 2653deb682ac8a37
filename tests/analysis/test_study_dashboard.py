"""The study in W&B: what a stand-in for the server holds, and that the command given again adds nothing."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from run_factory import MakeRun
from wandb_server import WandbServer

from skinkd.analysis.runs import read_runs
from study.collect import Collected, Runs
from study.dashboard import PROJECT, log_run, publish_study
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


def test_the_runs_a_report_and_a_workspace_are_there_once(
    collected: Collected, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    methods = [compared(collected, "swskd", "supervised")]
    with WandbServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        addresses = publish_study(collected, methods, "- `swskd`: the answer")
        first, *_ = collected.every
        assert log_run(first, "supervised") in server.runs  # again
        for run in collected.every:
            stored = server.runs[f"study-{run.folder.name.rpartition('-')[2]}"]
            assert stored.config["row"] == run.config["method"]["name"] and stored.exit_code == 0
            assert {name: stored.summary[name] for name in run.metrics} == pytest.approx(run.metrics)
            curve = [row["val/accuracy"] for row in stored.history if "val/accuracy" in row]
            assert curve == pytest.approx(run.history["val/accuracy"].tolist())
        assert server.unknown == []
        report, workspace = server.views
    assert set(addresses) == {"report", "workspace"} and PROJECT in addresses["report"]
    assert len(server.runs) == 4
    words = json.dumps(json.loads(report["spec"]))
    assert "the answer" in words and "not settled (2 of 5 folds)" in words
    for view in (report, workspace):
        assert all(name in view["spec"] for name in server.runs) and view["projectName"] == PROJECT
        assert "test/balanced_accuracy" in view["spec"] and "row" in view["spec"]


def test_without_an_account_nothing_is_logged(collected: Collected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(SystemExit, match="wandb login"):
        publish_study(collected, [compared(collected, "swskd", "supervised")], "")
    assert wandb.run is None
