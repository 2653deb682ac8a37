"""What the trackers hold after a run, read back from their files."""

import csv
import gc
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
import pytest
import wandb
from train_process import Result, metrics_of, only_run
from wandb_file import WandbFile

from skinkd.errors import UserError
from skinkd.methods.base import Method
from skinkd.runs.folder import RunFolder
from skinkd.runs.tracking import add_to_run

Trained = Callable[..., Path]
ONLINE = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB__GRAPHQL_RETRY_MAX": "1"}


def offline_runs(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


@pytest.fixture(scope="module")
def logged(train_tiny: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(
        tmp_path_factory.mktemp("logged"),
        "method=swskd",
        "data.image_size=64",
        "logger=wandb",
        "logger.example_images=3",
        "logger.log_checkpoint=true",
        "trainer.log_every_n_steps=1",
        "group=sweep-1",
        "data.fold=1",
        "data.folds=3",
    )


@pytest.fixture(scope="module")
def wandb_file(logged: Path) -> WandbFile:
    (run,) = offline_runs(logged)
    return WandbFile(run)


def test_the_run_can_be_found(logged: Path, wandb_file: WandbFile) -> None:
    run = wandb_file.run
    assert run.display_name == logged.name and run.project == "skinkd"
    assert run.run_group == "sweep-1" and run.job_type == "student"
    assert set(run.tags) == {"synthetic", "swskd", "test_resnet.r160_in1k", "seed=0", "fold=1"}
    assert run.run_id == (logged / "wandb_run_id").read_text().strip()
    assert wandb_file.exit_code == 0


def test_the_configuration_is_there_as_plain_values(wandb_file: WandbFile) -> None:
    config = wandb_file.config
    assert config["method"]["temperature"] == 3.0 and config["data"]["image_size"] == 64
    assert config["seed"] == 0 and config["optim"]["lr"] == 0.1


def test_history_has_terms_scores_learning_rate_and_speed(logged: Path, wandb_file: WandbFile) -> None:
    history = pd.read_csv(logged / "history.csv")
    steps = [row for row in wandb_file.history if "train/loss" in row]
    weights = {"ce": 1.0, "lrb": 0.5, "frb": 1.0, "gate_ce": 1.0}
    images = (pd.read_csv(logged / "splits.csv")["split"] == "train").sum()
    assert [row["trainer/global_step"] for row in steps] == list(range(2 * (images // 16)))
    for row in steps:
        # the terms are unweighted, the loss is weighted
        total = sum(weight * row[f"train/{name}"] for name, weight in weights.items())
        assert row["train/loss"] == pytest.approx(total, rel=1e-4)
    rates = [row["lr"] for row in wandb_file.history if "lr" in row]
    assert len(rates) == len(steps) and 0.09 < max(rates) <= 0.1 and min(rates) < 0.01
    assert rates[-1] == pytest.approx(history["lr"].iloc[-1])
    for name in ("val/accuracy", "val/auroc_macro", "val/loss", "val/sensitivity/mel", "train/images_per_second"):
        ours = history[name.removeprefix("train/") if "second" in name else name]
        theirs = [row[name] for row in wandb_file.history if name in row]
        assert theirs == pytest.approx(ours.tolist(), rel=1e-5), name
    ce = pd.Series([row["train/ce"] for row in steps]).groupby([row["epoch"] for row in steps]).mean()
    assert ce.tolist() == pytest.approx(history["train/ce"].tolist(), rel=1e-5)


def test_the_summary_is_of_the_selected_checkpoint(logged: Path, wandb_file: WandbFile) -> None:
    numbers = metrics_of(logged)
    for name in (
        "test/accuracy",
        "test/auroc_macro",
        "test/ece",
        "val/accuracy",
        "val/loss",
        "best_epoch",
        "parameters",
    ):
        assert wandb_file.summary[name] == pytest.approx(numbers[name]), name
    assert wandb_file.metrics["val/accuracy"].summary.max
    assert wandb_file.metrics["val/loss"].summary.min


def table(folder: Path, wandb_file: WandbFile, name: str) -> pd.DataFrame:
    (run,) = offline_runs(folder)
    content = json.loads((run / "files" / wandb_file.summary[f"{name}/path"]).read_text())
    return pd.DataFrame(content["data"], columns=content["columns"])


def test_tables_and_images_are_there(logged: Path, wandb_file: WandbFile) -> None:
    predictions = pd.read_csv(logged / "predictions" / "test.csv")
    matrix = table(logged, wandb_file, "test/confusion_matrix_table")
    counts = {(row.Actual, row.Predicted): row.nPredictions for row in matrix.itertuples()}
    expected = predictions.groupby(["label", "prediction"]).size().to_dict()
    assert {pair: count for pair, count in counts.items() if count} == expected
    assert len(counts) == 49

    by_class = table(logged, wandb_file, "test/per_class").set_index("class")
    assert by_class["n"].to_dict() == predictions["label"].value_counts().to_dict()
    for name in by_class.index:
        assert by_class.loc[name, "sensitivity"] == pytest.approx(metrics_of(logged)[f"test/sensitivity/{name}"])

    (run,) = offline_runs(logged)
    assert wandb_file.summary["test/examples/count"] == 3
    for file, caption, (_, row) in zip(
        wandb_file.summary["test/examples/filenames"],
        wandb_file.summary["test/examples/captions"],
        predictions.head(3).iterrows(),
        strict=True,
    ):
        assert cv2.imread(str(run / "files" / file)).shape == (48, 64, 3)
        assert caption.startswith(f"{row['label']}, predicted {row['prediction']} (")
    assert any(name.startswith("checkpoint-") for name in wandb_file.artifacts)


def test_a_second_run_of_the_process_is_another_says_once_that_it_is_offline_and_leaves_no_environment(
    trained: Trained, logged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(os.environ)
    folder = trained("logger=wandb", "logger.example_images=0", "seed=1", "trainer.max_epochs=1")
    (run,) = offline_runs(folder)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("W&B")]
    assert lines == [f"W&B logs offline; to upload: wandb sync {run}"]
    assert {name for name in os.environ if name.startswith("WANDB")} == {n for n in before if n.startswith("WANDB")}
    files = [WandbFile(offline_runs(logged)[0]), WandbFile(run)]
    assert files[0].run.run_id != files[1].run.run_id
    assert "test/examples" not in str(files[1].summary) and files[1].run.job_type == "baseline"
    for seed, epochs, file in ((0, 2, files[0]), (1, 1, files[1])):
        assert file.config["seed"] == seed and file.exit_code == 0
        assert len([row for row in file.history if "val/loss" in row]) == epochs


def test_a_failing_run_is_marked_failed_and_keeps_its_id_when_it_is_resumed(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    combine, calls = Method.combine, itertools.count(1)

    def stop_at_the_seventh(*given: Any, **named: Any) -> Any:
        if next(calls) == 7:
            raise RuntimeError("stopped by the test")
        return combine(*given, **named)

    monkeypatch.setattr(Method, "combine", stop_at_the_seventh)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        trained("logger=wandb")
    gc.collect()  # the error held the run folder's lock
    folder = trained("logger=wandb")
    first, second = (WandbFile(run) for run in offline_runs(folder))
    assert first.run.run_id == second.run.run_id
    assert (first.exit_code, second.exit_code) == (1, 0)


def test_numbers_that_come_later_go_to_the_same_run(tmp_path: Path) -> None:
    folder, settings = RunFolder(tmp_path), {"kind": "wandb", "project": "skinkd", "entity": None}
    add_to_run(settings, folder, {"export/accuracy_int8": 0.75})
    assert offline_runs(tmp_path) == [], "the folder has no W&B run"
    folder.write_text("wandb_run_id", "abc123\n")
    add_to_run(settings | {"kind": "csv"}, folder, {"export/accuracy_int8": 0.75})
    assert offline_runs(tmp_path) == []
    add_to_run(settings, folder, {"export/accuracy_int8": 0.75})
    (run,) = offline_runs(tmp_path)
    wandb.teardown()  # W&B's own process writes the file, and ends when the file is complete
    file = WandbFile(run)
    assert file.run.run_id == "abc123" and file.summary["export/accuracy_int8"] == 0.75 and file.exit_code == 0
    assert (tmp_path / "wandb_run_id").read_text() == "abc123\n"


def test_an_unreachable_server_makes_it_go_offline(job: Callable[..., Result], tmp_path: Path) -> None:
    result = job("logger=wandb", "trainer.max_epochs=1", env=ONLINE)
    assert result.code == 0, result.err
    assert "W&B cannot be reached" in result.out and "W&B logs offline" in result.out
    assert len(offline_runs(only_run(tmp_path / "outputs"))) == 1


def test_a_client_that_cannot_start_is_one_sentence(job: Callable[..., Result]) -> None:
    """The variable names a W&B process that has ended, as in a shell whose notebook was closed."""
    result = job("logger=wandb", env={"WANDB_SERVICE": "3-1-unix-/nowhere/socket"})
    assert result.code == 2
    assert "W&B cannot log in" in result.err and "logger=csv trains without W&B" in result.err
    assert "Traceback" not in result.err


def csv_rows(folder: Path) -> list[dict[str, Any]]:
    with (folder / "csv" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_csv_has_each_step_and_changes_no_number(trained: Trained, finished: Path, tmp_path: Path) -> None:
    folder = trained("logger=csv", "trainer.log_every_n_steps=1")
    assert folder.name == finished.name
    assert (folder / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()
    rows = csv_rows(folder)
    third = csv_rows(trained("logger=csv", "trainer.log_every_n_steps=3", output=tmp_path / "third"))
    for name in ("train/ce", "train/loss", "lr"):
        every = {row["step"]: row[name] for row in rows if row[name]}
        assert {row["step"]: row[name] for row in third if row[name]} == {step: every[step] for step in "258"}
    history = pd.read_csv(folder / "history.csv")
    assert [float(row["val/loss"]) for row in rows if row["val/loss"]] == pytest.approx(history["val/loss"].tolist())
    assert len([row for row in rows if row["train/ce"]]) == 10
    assert [float(row["test/accuracy"]) for row in rows if row["test/accuracy"]] == [
        metrics_of(folder)["test/accuracy"]
    ]


def test_tensorboard(trained: Trained) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = trained("logger=tensorboard")
    events = accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()
    history = pd.read_csv(folder / "history.csv")
    assert [event.value for event in events.Scalars("val/loss")] == pytest.approx(history["val/loss"].tolist())
    (accuracy,) = events.Scalars("test/accuracy")
    assert accuracy.value == pytest.approx(metrics_of(folder)["test/accuracy"])


def test_none_leaves_nothing_but_the_run_folder(finished: Path) -> None:
    assert not (finished / "wandb").exists() and not (finished / "csv").exists()
    assert not (finished / "wandb_run_id").exists()


def test_an_unknown_tracker_is_refused(trained: Trained) -> None:
    with pytest.raises(UserError, match=r"logger.kind=wanb .* 'wandb'"):
        trained("logger.kind=wanb")
