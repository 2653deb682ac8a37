"""Searches from command to study folder, in real processes: what is trained, what is pruned, what a kill leaves."""

import json
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import optuna
import pandas as pd
import pytest
import train_process
import yaml
from train_process import Act, Result

KILL = partial(signal.raise_signal, signal.SIGKILL)
SPACE = "tune.space={optim.lr: {low: 1e-3, high: 0.3, log: true}, augment: [none, basic]}"
SHORT = ["tune.poll_seconds=0.05", "trainer.limit_train_batches=2"]
QUICK = [*SHORT, "tune.pruner.name=none", "tune.trials=2", SPACE]
TIMES = ["seconds", "folder"]


Tune = Callable[..., Result]


@pytest.fixture(scope="session")
def tune(tiny: list[str]) -> Tune:
    """Runs ``python -m skinkd.tune`` in a process of its own; it and its trials are forks."""

    def run(output: Path, *overrides: str, act: Act | None = None) -> Result:
        arguments = [*tiny, f"paths.output_dir={output}", *overrides]
        return train_process.run(
            arguments, folder=output, module="skinkd.tune", act=act, fork_children=True, timeout=250
        )

    return run


def study_of(output: Path) -> Path:
    (database,) = output.glob("tune/*/study.db")
    return database.parent


def study_in(output: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=f"sqlite:///{study_of(output)}/study.db")


def trials(output: Path) -> pd.DataFrame:
    return pd.read_csv(study_of(output) / "trials.csv")


def histories(output: Path) -> list[pd.DataFrame]:
    return [pd.read_csv(Path(folder) / "history.csv") for folder in trials(output)["folder"]]


@pytest.fixture(scope="module")
def whole(tune: Tune, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A search of two trials that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole")
    return output, tune(output, *QUICK)


def test_each_trial_is_a_run_whose_best_validation_score_is_its_value(whole: tuple[Path, Result]) -> None:
    output, result = whole
    assert result.code == 0, result.err
    table = trials(output)
    assert table["number"].tolist() == [1, 2] and set(table["state"]) == {"complete"}
    assert len(set(table["optim.lr"])) == 2 and table["optim.lr"].between(1e-3, 0.3).all()
    for (_, row), history in zip(table.iterrows(), histories(output), strict=True):
        assert row["value"] == history["val/auroc_macro"].max() and row["epochs"] == len(history) == 2
        config = yaml.safe_load((Path(row["folder"]) / "config.yaml").read_text())
        assert config["optim"]["lr"] == row["optim.lr"]
        assert ("Flip" in str(config["augment"])) == (row["augment"] == "basic")
        assert config["job_type"] == "tune" and config["group"] == study_of(output).name


def test_the_test_part_stays_unseen(whole: tuple[Path, Result]) -> None:
    output, _ = whole
    folders = [path.parent for path in output.glob("*/config.yaml")]
    assert len(folders) == 2
    for folder in folders:
        assert not [name for name in json.loads((folder / "metrics.json").read_text()) if "test/" in name]
        assert [path.name for path in (folder / "predictions").iterdir()] == ["val.csv"]
    assert not list(output.rglob("*test.csv"))


def test_the_best_is_kept_shown_and_its_command_scores_the_test_part(
    whole: tuple[Path, Result], tmp_path: Path
) -> None:
    output, result = whole
    table = trials(output)
    row = table.loc[table["value"].idxmax()]
    best = yaml.safe_load((study_of(output) / "best.yaml").read_text())
    assert best["trial"] == row["number"] and best["value"] == row["value"] and best["folder"] == row["folder"]
    assert best["parameters"] == {"optim.lr": row["optim.lr"], "augment": row["augment"]}
    picture = cv2.imread(str(study_of(output) / "history.png"))
    assert picture is not None and picture.std() > 1

    lines = result.out.splitlines()
    assert lines[-1] == best["command"] and len(lines[-1]) > 80
    assert sum(line.startswith("trial ") and " of 2 " in line for line in lines) == 2
    assert [line for line in lines if line.startswith("trial ") and "  best   " in line]
    words = shlex.split(lines[-1])
    assert words[:3] == ["python", "-m", "skinkd.train"] and "evaluation.test=false" not in words
    again = train_process.run([*words[3:], f"paths.output_dir={tmp_path / 'again'}"], folder=tmp_path / "job")
    assert again.code == 0, again.err
    numbers = train_process.metrics_of(train_process.only_run(tmp_path / "again"))
    assert numbers["val/auroc_macro"] == pytest.approx(row["value"], rel=1e-6)  # history.csv is of float32
    assert "test/auroc_macro" in numbers


def test_the_same_command_has_nothing_to_do(tune: Tune, whole: tuple[Path, Result]) -> None:
    output, _ = whole
    before = {path: path.stat().st_mtime_ns for path in output.rglob("metrics.json")}
    logs = {path: path.read_text() for path in output.rglob("trial-*.log")}
    result = tune(output, *QUICK)
    assert result.code == 0 and "of which 2 are done" in result.out and "trial 1 of" not in result.out
    assert {path: path.stat().st_mtime_ns for path in output.rglob("metrics.json")} == before
    assert {path: path.read_text() for path in output.rglob("trial-*.log")} == logs


# of the first command: the second trial's first epoch is told, half of its settings are chosen, the first trial is over
MOMENTS = {
    "while a trial trains": Act("optuna.trial._trial:Trial.report", 3, KILL),
    "while settings are chosen": Act("optuna.trial._trial:Trial.suggest_categorical", 2, KILL),
    "after a trial": Act("skinkd.search.study:_write", 1, KILL),
    "as a trial ends": Act("optuna.study.study:Study.tell", 2, KILL),
}


def check_ends_as(output: Path, whole: Path) -> None:
    mine, theirs = trials(output), trials(whole)
    pd.testing.assert_frame_equal(mine.drop(columns=TIMES), theirs.drop(columns=TIMES))
    assert [Path(one).name for one in mine["folder"]] == [Path(one).name for one in theirs["folder"]]
    assert len(list(output.glob("*/config.yaml"))) == 2
    # no epoch was trained twice but one that a kill cut short
    for log in sorted(output.rglob("trial-*.log")):
        text = log.read_text()
        assert text.count("epoch   2/2") == 1 and text.count("epoch   1/2") <= 2


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_search_ends_as_one_that_was_left_alone(
    tune: Tune, whole: tuple[Path, Result], tmp_path: Path, moment: str
) -> None:
    assert tune(tmp_path, *QUICK, act=MOMENTS[moment]).code == -signal.SIGKILL
    result = tune(tmp_path, *QUICK)
    assert result.code == 0, result.err
    check_ends_as(tmp_path, whole[0])


def test_asked_to_stop_and_killed_later_it_ends_as_one_that_was_left_alone(
    tune: Tune, whole: tuple[Path, Result], tmp_path: Path
) -> None:
    """It stops its first trial; the second command goes on with that trial, and is killed while the next one trains."""
    stop = Act("optuna.trial._trial:Trial.report", 1, partial(signal.raise_signal, signal.SIGTERM))
    stopped = tune(tmp_path, *QUICK, act=stop)
    assert stopped.code == 128 + signal.SIGTERM
    assert "the same command goes on" in stopped.out
    assert tune(tmp_path, *QUICK, act=MOMENTS["while a trial trains"]).code == -signal.SIGKILL
    assert [one.state.name for one in study_in(tmp_path).trials] == ["COMPLETE", "RUNNING"]
    result = tune(tmp_path, *QUICK)
    assert result.code == 0, result.err
    check_ends_as(tmp_path, whole[0])


def test_pruned_by_the_median_of_earlier_trials(tune: Tune, tmp_path: Path) -> None:
    """The rule, recomputed from the histories: worse so far than the median of earlier complete trials at that epoch."""
    epochs, total = 3, 2  # by the seed the second learning rate is too small to learn
    settings = [*SHORT, "tune.pruner.startup_trials=1", "tune.pruner.min_epochs=1"]
    space = "tune.space={optim.lr: {low: 1e-7, high: 0.1, log: true}}"
    monitor = ["monitor.metric=val/loss", "monitor.mode=min", f"trainer.max_epochs={epochs}", f"tune.trials={total}"]
    result = tune(tmp_path, *settings, space, *monitor)
    assert result.code == 0, result.err
    table, runs = trials(tmp_path), histories(tmp_path)
    complete: list[list[float]] = []
    expected = []
    for run in runs:
        values = run["val/loss"].tolist()
        end = next(
            (
                epoch
                for epoch in range(1, min(len(values), epochs - 1) + 1)
                if complete and min(values[:epoch]) > np.median([other[epoch - 1] for other in complete])
            ),
            None,
        )
        expected.append(("complete", epochs) if end is None else ("pruned", end))
        if end is None:
            complete.append(values)
    assert list(zip(table["state"], table["epochs"], strict=True)) == expected
    assert {"complete", "pruned"} == set(table["state"])
    for _, row in table.iterrows():
        assert (Path(row["folder"]) / "metrics.json").exists() or row["state"] == "pruned"
        assert row["state"] == "complete" or f"pruned at epoch {row['epochs']}" in result.out


def test_a_trial_that_fails_is_told_and_a_named_study_goes_on_with_its_own_search_alone(
    tune: Tune, tmp_path: Path
) -> None:
    named = [*SHORT, "tune.study=mine", "tune.trials=2", "trainer.max_epochs=1"]
    space = "tune.space={data.batch_size: [999, 16], optim.lr: [0.01, 0.1]}"
    result = tune(tmp_path, *named, space)
    assert result.code == 0, result.err
    table = trials(tmp_path)
    assert set(table["state"]) == {"failed", "complete"}  # by the seed: both are drawn
    for _, row in table.iterrows():
        assert (row["state"] == "failed") == (row["data.batch_size"] == 999)
        assert row["state"] == "complete" or row["reason"].startswith("exit code 2: data.batch_size=999 is larger than")
    assert result.out.count("FAILED") == (table["state"] == "failed").sum()
    assert table["state"].iloc[0] == "failed"

    other = tune(tmp_path, *named, "tune.space={optim.lr: [0.01, 0.2]}", "optim.weight_decay=0")
    assert other.code == 2 and "was begun with another configuration and another space" in other.err
    (study,) = (tmp_path / "tune").iterdir()
    assert study.name == "mine"
    (study / "study.db").write_text("no database")
    broken = tune(tmp_path, *named, space)
    assert broken.code == 2 and "study.db cannot be read as a study" in broken.err


def test_it_gives_up_where_every_trial_fails(tune: Tune, tmp_path: Path) -> None:
    space = "tune.space={data.batch_size: [998, 999]}"
    result = tune(tmp_path, *SHORT, "tune.trials=9", "tune.max_failures=2", space)
    assert result.code == 1
    assert result.out.count("FAILED") == 2 and "the last 2 trials failed" in result.out
    assert [one.state for one in study_in(tmp_path).trials] == [optuna.trial.TrialState.FAIL] * 2
    assert len(trials(tmp_path)) == 2


@pytest.mark.slow
def test_one_teacher_serves_all_trials(tune: Tune, tiny: list[str], tmp_path: Path) -> None:
    """Its settings are those of the command, though the trials' optim.lr would be its own too."""
    teacher = "method.teacher.run.backbone.name=test_efficientnet.r160_in1k"
    settings = [*SHORT, "method=kd", teacher, "trainer.max_epochs=1", "tune.trials=2"]
    result = tune(tmp_path, *settings)
    assert result.code == 0, result.err
    table = trials(tmp_path)
    assert {"optim.lr", "method.temperature", "method.loss_weights.kd"} <= set(
        table.columns
    )  # of the method's own space
    runs = {path.parent for path in tmp_path.glob("*/config.yaml")}
    (one,) = runs - {Path(folder) for folder in table["folder"]}
    assert f"method.teacher.ckpt={one}" in shlex.split(result.out.splitlines()[-1])
    assert yaml.safe_load((one / "config.yaml").read_text())["optim"]["lr"] == 0.1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["tune.space={optim.lrr: [1, 2]}"], "error: tune.space: optim.lrr is not a setting; did you mean"),
        (["tune.space={optim.lr: {low: 1, high: 0.1}}"], "error: tune.space: optim.lr: low=1 must be below high=0.1"),
        (["tune_space=swkd"], "error: tune_space=swkd is not a choice; did you mean 'swskd'"),
        (["tune.pruner.name=medain"], "error: tune.pruner.name=medain is not a valid value; did you mean 'median'"),
        (["tune.trials=0"], "error: tune.trials=0 is out of range"),
        (["tune.trails=9"], "error: tune.trails is not a setting; did you mean 'tune.trials'"),
        (["method=mskd_teacher"], "error: method=mskd_teacher has no file in tune_space; give"),
        (["-m", "seed=0,1"], "error: -m starts several runs"),
        (["sweep=seeds"], "error: sweep=seeds starts several runs"),
        (["run_dir=here"], "error: run_dir=here is for a single run"),
        (["force=true"], "error: force=True is for a single run"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    tiny: list[str],
    tmp_path: Path,
    overrides: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["skinkd.tune", *tiny, f"paths.output_dir={tmp_path / 'outputs'}", *overrides])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("skinkd.tune", run_name="__main__", alter_sys=True)
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(words) and len(shown.err.splitlines()) == 1 and not shown.out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_as_a_user_types_it(tiny: list[str], tmp_path: Path) -> None:
    """Nothing forked: killed while its second trial trains, and given again."""
    command = [
        sys.executable,
        "-m",
        "skinkd.tune",
        *tiny,
        f"paths.output_dir={tmp_path / 'outputs'}",
        *QUICK,
    ]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert first.stdout is not None
    assert any(line.startswith("trial 1 of 2") for line in first.stdout)
    time.sleep(3)
    first.kill()
    first.wait()
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    table = trials(tmp_path / "outputs")
    assert table["state"].tolist() == ["complete", "complete"]
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
