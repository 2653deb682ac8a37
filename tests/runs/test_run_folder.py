import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import train_process
import yaml

from skinkd.config.identity import identity, run_path
from skinkd.errors import UserError
from skinkd.runs.folder import RunFolder

SPLITS = pd.DataFrame({"image_id": ["a", "b", "c"], "group": ["1", "1", "2"], "split": ["train", "train", "test"]})


def config(**changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "seed": 0,
        "run_dir": None,
        "force": False,
        "config": None,
        "group": None,
        "job_type": None,
        "paths": {"data_dir": "data", "output_dir": "outputs"},
        "method": {"name": "swskd", "temperature": 3.0},
        "backbone": {"name": "a/b.c", "pretrained": False},
        "data": {"name": "ham10000", "fold": None, "root": "data/ham10000", "num_workers": 2, "image_size": 64},
        "logger": {"kind": "wandb"},
        "trainer": {"max_epochs": 3, "enable_progress_bar": True, "log_every_n_steps": 10},
    }
    for name, value in changes.items():
        group, _, key = name.partition("__")
        if key:
            plain[group][key] = value
        else:
            plain[group] = value
    return plain


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 1),
        ("method__temperature", 4.0),
        ("data__image_size", 32),
        ("trainer__max_epochs", 4),
        ("data__fold", 1),
    ],
)
def test_what_changes_a_number_changes_the_folder(name: str, value: Any) -> None:
    assert run_path(config(**{name: value})) != run_path(config())


@pytest.mark.parametrize("added", [{"loss.smoothing": 0.0}, {"augment.mix.name": "none", "augment.mix.alpha": 0.2}])
def test_a_setting_that_came_later_leaves_earlier_runs_their_folders(
    added: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identity(config(loss={"name": "focal"}, augment={"flip": True}))
    monkeypatch.setattr("skinkd.config.identity.ADDED_SETTINGS", added)

    def now(changes: dict[str, Any]) -> str:
        grown: dict[str, Any] = config(loss={"name": "focal"}, augment={"flip": True})
        for name, value in (added | changes).items():
            *groups, key = name.split(".")
            node = grown
            for group in groups:
                node = node.setdefault(group, {})
            node[key] = value
        return identity(grown)

    assert now({}) == before
    assert now({next(iter(added)): 0.1}) != before
    assert now({next(iter(added)): False}) != before  # which equals 0, and is another setting


def test_a_setting_that_came_later_leaves_runs_their_folders_where_a_teacher_has_it_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("skinkd.config.identity.ADDED_SETTINGS", {"loss.smoothing": 0.0})

    def taught(loss: dict[str, Any]) -> str:
        inner = {"method": {"name": "head", "teacher": {"run": {"loss": loss}}}}
        return identity(config(method={"name": "kd", "teacher": {"run": inner}}))

    assert taught({"name": "focal", "smoothing": 0.0}) == taught({"name": "focal"})
    assert taught({"name": "focal", "smoothing": 0.1}) != taught({"name": "focal"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("force", True),
        ("group", "sweep"),
        ("job_type", "teacher"),
        ("logger", {"kind": "none"}),
        ("data__num_workers", 8),
        ("trainer__enable_progress_bar", False),
        ("trainer__log_every_n_steps", 1),
    ],
)
def test_what_changes_no_number_does_not(name: str, value: Any) -> None:
    assert run_path(config(**{name: value})) == run_path(config())


def test_data_may_move_with_the_folder_that_holds_them() -> None:
    paths = {"data_dir": "/elsewhere", "output_dir": "outputs"}
    assert run_path(config(paths=paths, data__root="/elsewhere/ham10000")) == run_path(config())
    # other images are another run
    assert run_path(config(data__root="/elsewhere/ham10000")) != run_path(config())
    assert run_path(config(data__root="data/ham10000b")) != run_path(config())


def test_the_order_of_keys_does_not_count() -> None:
    other = dict(reversed(config().items()))
    assert identity(other) == identity(config())


def test_the_name_is_readable_and_one_folder() -> None:
    path = run_path(config(data__fold=2))
    assert path.parent == Path("outputs")
    assert path.name == f"swskd-ham10000-a_b.c-seed0-fold2-{identity(config(data__fold=2))}"
    assert run_path(config(run_dir="somewhere/else")) == Path("somewhere/else")


def test_nothing_is_there_before_open(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "outputs" / "run")
    assert not folder.finished
    assert not (tmp_path / "outputs").exists()
    folder.open(config(), SPLITS, force=False)
    assert yaml.safe_load((folder.path / "config.yaml").read_text()) == config()


def test_a_folder_of_another_configuration_is_refused_and_force_replaces_it(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run")
    first.open(config(), SPLITS, force=False)
    first.write_text("predictions/test.csv", "x")
    del first
    with pytest.raises(UserError, match="another configuration"):
        RunFolder(tmp_path / "run").open(config(seed=1), SPLITS, force=False)
    again = RunFolder(tmp_path / "run")
    again.open(config(seed=1), SPLITS, force=True)
    assert sorted(path.name for path in again.path.iterdir()) == [".lock", "config.yaml", "splits.csv"]


def test_a_run_does_not_go_on_with_another_split(tmp_path: Path) -> None:
    """The same configuration after the data on disk have changed."""
    folder = RunFolder(tmp_path / "run")
    folder.open(config(), SPLITS, force=False)
    del folder
    RunFolder(tmp_path / "run").open(config(), SPLITS, force=False)
    for other in (SPLITS.iloc[:2], SPLITS.assign(split=["test", "test", "train"])):
        with pytest.raises(UserError, match="force=true"):
            RunFolder(tmp_path / "run").open(config(), other, force=False)
    RunFolder(tmp_path / "run").open(config(), SPLITS.iloc[:2], force=True)


def hold(path: Path, ready: Any) -> None:
    folder = RunFolder(path)
    folder.open(config(), SPLITS, force=False)
    ready.set()
    time.sleep(60)


def test_a_folder_is_held_until_its_process_ends(tmp_path: Path) -> None:
    ready = train_process.context.Event()
    process = train_process.fork(hold, tmp_path / "run", ready)
    assert ready.wait(60)
    for force in (False, True):
        with pytest.raises(UserError, match="another process is running in"):
            RunFolder(tmp_path / "run").open(config(), SPLITS, force=force)
    assert (tmp_path / "run" / "config.yaml").exists()
    process.kill()
    process.join()
    RunFolder(tmp_path / "run").open(config(), SPLITS, force=False)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_text("a.txt", "old")

    def half(path: Path) -> None:
        path.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught:
        folder.write("a.txt", half)
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from skinkd.runs.folder import RunFolder
folder = RunFolder(Path({str(tmp_path)!r}))
folder.write_text("a.txt", "old")
def half(path):
    path.write_text("ne")
    os.kill(os.getpid(), signal.SIGKILL)
folder.write("a.txt", half)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert (tmp_path / "a.txt").read_text() == "old"


def test_files_come_back_as_they_were_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    values = {"test/accuracy": 1 / 3, "b": 2, "a": 1e-300}
    folder.write_json("metrics.json", values)
    assert list(folder.metrics().items()) == list(values.items())
    assert folder.finished
    frame = pd.DataFrame({"x": [0.1, 1 / 3, 5e-324], "name": ["a,b", '"', "ü"]})
    folder.write_csv("deep/er/table.csv", frame)
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "deep/er/table.csv", float_precision="round_trip"), frame, check_exact=True
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        RunFolder(tmp_path).write_json("metrics.json", {"a": value})
    assert not list(tmp_path.iterdir())
    json.dumps({})
