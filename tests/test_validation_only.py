"""``evaluation.test=false``: a run whose test part nobody has looked at."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from train_process import metrics_of, only_run
from wandb_file import WandbFile

from skinkd.data.datamodule import SkinDataModule
from skinkd.methods.base import Method

Trained = Callable[..., Path]
UNSEEN = "evaluation.test=false"


def refuse_test(patch: pytest.MonkeyPatch) -> None:
    """The test part can be neither loaded nor scored."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the test part was asked for")

    patch.setattr(Method, "test_step", refuse)
    patch.setattr(SkinDataModule, "test_dataloader", refuse)


@pytest.fixture
def no_test(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_test(monkeypatch)


class Unseen(NamedTuple):
    """A run whose test part nobody has looked at: its folder, for reading only, and what it printed."""

    folder: Path
    said: str


@pytest.fixture(scope="module")
def unseen(train_tiny: Trained, tmp_path_factory: pytest.TempPathFactory) -> Unseen:
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        refuse_test(patch)
        for picture in ("plot_curves", "plot_confusion"):
            patch.setattr(f"skinkd.training.scores.{picture}", lambda *_, **__: None)
        folder = train_tiny(tmp_path_factory.mktemp("unseen"), UNSEEN)
    return Unseen(folder, said.getvalue())


def test_no_number_no_prediction_and_no_line_is_of_the_test_part(unseen: Unseen, finished: Path) -> None:
    folder, said = unseen
    numbers = json.loads((folder / "metrics.json").read_text())
    assert not [name for name in numbers if "test/" in name]
    assert sorted(path.name for path in (folder / "predictions").iterdir()) == ["val.csv"]
    assert "test" not in {word.strip(",") for word in said.split("epoch   1/2")[1].split()}

    # all else is as in the run that was tested
    whole = json.loads((finished / "metrics.json").read_text())
    kept = {name: value for name, value in whole.items() if not name.startswith("test/")}
    assert numbers == kept
    assert (folder / "predictions/val.csv").read_bytes() == (finished / "predictions/val.csv").read_bytes()
    pictured = pd.read_csv(folder / "splits.csv").query("split == 'test'")["image_id"]
    assert not set(pictured) & set(pd.read_csv(folder / "predictions/val.csv")["image_id"])

    # its table fits 80 columns
    lines = said.split("epoch   2/2")[1].splitlines()[1:]
    lines = lines[: lines.index("run folder:") + 2]
    assert lines[-1] == str(folder)
    (heading,) = [line for line in lines if line.startswith("val, by class")]
    assert heading.split() == [
        "val,",
        "by",
        "class",
        "images",
        "sensitivity",
        "95",
        "%",
        "interval",
        "specificity",
        "F1",
        "AUROC",
    ]
    assert [line.split() for line in lines if line.strip() == "validation"]
    assert all(len(line) <= 80 for line in lines[:-1])


def test_given_again_with_the_test_part_it_is_scored_and_not_trained(
    trained: Trained, unseen: Unseen, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(unseen.folder, tmp_path / "outputs" / unseen.folder.name))
    history, weights = (folder / "history.csv").read_bytes(), (folder / "checkpoints/best.ckpt").read_bytes()
    assert trained() == folder
    assert "epoch   " not in capsys.readouterr().out
    assert (folder / "history.csv").read_bytes() == history
    assert (folder / "checkpoints/best.ckpt").read_bytes() == weights
    assert metrics_of(folder) == metrics_of(finished)
    # tested, it is finished either way
    tested = (folder / "metrics.json").stat().st_mtime_ns
    trained(UNSEEN)
    assert (folder / "metrics.json").stat().st_mtime_ns == tested


def test_what_the_tracker_shows_is_of_the_validation_part(trained: Trained, no_test: None) -> None:
    folder = trained(UNSEEN, "logger=wandb", "logger.example_images=2", "trainer.max_epochs=1")
    (run,) = (folder / "wandb").glob("offline-run-*")
    summary = WandbFile(run).summary
    assert not [name for name in summary if name.startswith("test/")]
    assert summary["val/examples/count"] == 2
    assert "val/confusion_matrix_table/path" in summary and "val/per_class/path" in summary


def test_the_teachers_test_scores_stay_unseen_too(
    trained: Trained, no_test: None, finished: Path, tmp_path: Path
) -> None:
    trained(UNSEEN, "method=kd", f"method.teacher.ckpt={finished}", "trainer.max_epochs=1")
    numbers = metrics_of(only_run(tmp_path / "outputs"))
    assert "val/accuracy" in numbers and not [name for name in numbers if "test/" in name]
