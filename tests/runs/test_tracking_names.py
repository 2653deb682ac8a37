"""What W&B refuses is refused first or made to fit; its variables switch it off; a home that cannot be written works."""

import os
import sys
from pathlib import Path

import pytest
import wandb
from wandb_file import WandbFile

from skinkd.errors import UserError
from skinkd.runs.folder import RunFolder
from skinkd.runs.tracking import RunInfo, Tracker, check_tracker, open_tracker

SETTINGS = {"kind": "wandb", "project": "skin", "entity": None, "log_checkpoint": False}


def info(**changes: object) -> RunInfo:
    values = {"name": "run", "tags": ["a"], "group": None, "job_type": "baseline", "config": {"seed": 0}}
    return RunInfo(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["team/skin", "a\\b", "a#b", "a?b", "a%b", "a:b", "p" * 129, ""])
def test_a_project_that_wandb_refuses_is_one_sentence(name: str) -> None:
    for key in ("project", "entity"):
        with pytest.raises(UserError, match=f"^logger.{key}=.* is refused by W&B; give 1 to 128 characters"):
            check_tracker(SETTINGS | {key: name})
    check_tracker(SETTINGS | {"project": "p" * 128})
    check_tracker(SETTINGS | {"kind": "csv", "project": name})


def test_long_names_are_shortened_and_a_home_that_cannot_be_written_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", "/proc/nowhere")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, "")  # so that the test takes back what is set
        monkeypatch.delenv(name)
    long = "clinic-of-the-university-hospital-dermoscopy-2019-to-2025-anonymised-v2"
    given = info(name="n" * 200, tags=[long, "seed=0"], group="g" * 140)
    tracker = open_tracker(SETTINGS, given, RunFolder(tmp_path))
    assert Path(os.environ["WANDB_CACHE_DIR"]) == tmp_path / "wandb" / "cache"
    tracker.finish(failed=False)
    wandb.teardown()  # W&B's own process writes the file, and ends when the file is complete
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    run = WandbFile(folder).run
    assert sorted(run.tags) == sorted([f"{long[:63]}…", "seed=0"])
    assert len(run.display_name) == len(run.run_group) == 128


@pytest.mark.parametrize(
    ("variable", "value"), [("WANDB_MODE", "disabled"), ("WANDB_DISABLED", "true"), ("WANDB_DISABLED", "1")]
)
def test_wandbs_own_variables_switch_it_off(
    variable: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    tracker = open_tracker(SETTINGS, info(), RunFolder(tmp_path))
    assert type(tracker) is Tracker and tracker.logger is None
    assert not list(tmp_path.iterdir()) and "disabled" in capsys.readouterr().out


def test_false_does_not_disable(monkeypatch: pytest.MonkeyPatch) -> None:
    from skinkd.runs.tracking import _is_disabled

    assert "skinkd.runs.tracking" in sys.modules
    for value in ("", "false", "0"):
        monkeypatch.setenv("WANDB_DISABLED", value)
        assert not _is_disabled()
