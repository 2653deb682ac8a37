"""The teacher store: when a teacher is trained, and which teachers are refused."""

import fcntl
import os
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import train_process
import yaml
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from test_teacher_recipe import student
from train_process import metrics_of

import skinkd.train
import skinkd.training.run
from skinkd.build.checkpoints import open_checkpoint, read_cards
from skinkd.build.tables import load_split
from skinkd.build.teachers import find_teacher, load_teacher, teacher_scores
from skinkd.config.identity import run_path
from skinkd.config.resolve import resolved, teacher_config
from skinkd.errors import UserError

SMALL = ["method.teacher.run.backbone.name=test_efficientnet.r160_in1k"]


@pytest.fixture
def given(finished: Path, tiny: list[str]) -> Callable[..., DictConfig]:
    """Settings of a student whose teacher is the finished run, or a copy of it."""

    def settings(*overrides: str, teacher: Path = finished) -> DictConfig:
        with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
            return compose("train", overrides=[*tiny, "method=kd", f"method.teacher.ckpt={teacher}", *overrides])

    return settings


def load(settings: DictConfig):  # type: ignore[no-untyped-def]
    config = resolved(settings)
    table, parts = load_split(config)
    return load_teacher(config, find_teacher(settings), table, parts)


def test_a_run_folder_and_its_checkpoint_are_the_same_teacher(given: Callable[..., DictConfig], finished: Path) -> None:
    folder, _ = load(given())
    file, _ = load(given(teacher=finished / "checkpoints" / "best.ckpt"))
    ours, theirs = folder.network.state_dict(), file.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_its_test_scores_stand_beside_the_students(
    trained: Callable[..., Path], finished: Path, tmp_path: Path
) -> None:
    trained("method=kd", f"method.teacher.ckpt={finished}", "trainer.max_epochs=1")
    metrics, teachers = metrics_of(train_process.only_run(tmp_path / "outputs")), metrics_of(finished)
    for name in ("accuracy", "auroc_macro", "loss"):
        assert metrics[f"teacher/test/{name}"] == teachers[f"test/{name}"]
    copied = tmp_path / "alone.ckpt"
    shutil.copy(finished / "checkpoints" / "best.ckpt", copied)
    assert teacher_scores(copied) == {}


def test_only_the_best_checkpoint_has_the_runs_test_scores(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert teacher_scores(finished / "checkpoints" / "best.ckpt")
    assert capfd.readouterr().out == ""
    last = finished / "checkpoints" / "last.ckpt"
    assert teacher_scores(last) == {}
    assert f"there are no test scores of the teacher {last}" in capfd.readouterr().out


def test_what_is_no_teacher_is_refused(given: Callable[..., DictConfig], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither a run folder .* nor a checkpoint"):
        load(given(teacher=tmp_path / "nothing"))
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        load(given(teacher=tmp_path / "foreign.ckpt"))


def changed_card(finished: Path, path: Path, **card: object) -> Path:
    stored = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    stored["skinkd"] |= card
    torch.save(stored, path)
    return path


def test_other_classes_are_refused(given: Callable[..., DictConfig], finished: Path, tmp_path: Path) -> None:
    path = changed_card(finished, tmp_path / "other.ckpt", classes=["mel", "nv"])
    with pytest.raises(UserError, match=r"knows the classes mel, nv, but the student's data has"):
        load(given(teacher=path))


def test_a_teacher_of_another_split_is_refused(
    given: Callable[..., DictConfig], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"was trained on \d+ of the student's \d+ validation and test images"):
        load(given("data.split_seed=1"))
    load(given("data.split_seed=1", "method.teacher.allow_overlap=true"))
    assert "warning: the teacher" in capfd.readouterr().out


def test_one_lesion_or_one_test_image_is_enough(
    given: Callable[..., DictConfig], finished: Path, tmp_path: Path
) -> None:
    table, parts = load_split(resolved(given()))
    test = table.frame[(parts == "test").to_numpy()].iloc[0]
    empty = {"train": [], "val": []}
    cases: list[tuple[dict[str, list[str]], dict[str, list[str]]]] = [
        ({**empty, "train": [test["image_id"]]}, empty),
        ({**empty, "val": [test["image_id"]]}, empty),
        (empty, {**empty, "train": [test["group"]]}),
    ]
    for number, (images, groups) in enumerate(cases):
        path = changed_card(finished, tmp_path / f"{number}.ckpt", images=images, groups=groups)
        with pytest.raises(UserError, match="or on other images of their lesions"):
            load(given(teacher=path))
    # selecting on the images that the student selects on too gives nothing away
    validation = table.frame[(parts == "val").to_numpy()]["image_id"].tolist()
    path = changed_card(finished, tmp_path / "fine.ckpt", images={**empty, "val": validation}, groups=empty)
    load(given(teacher=path))


def test_a_copy_of_an_image_is_that_image(given: Callable[..., DictConfig], finished: Path, tmp_path: Path) -> None:
    table, parts = load_split(resolved(given()))
    test = table.frame[(parts == "test").to_numpy()].iloc[0]["image_id"]
    path = changed_card(
        finished, tmp_path / "a.ckpt", images={"train": [f"{test}#2"], "val": []}, groups={"train": [], "val": []}
    )
    with pytest.raises(UserError, match="was trained on 1 of the student's"):
        load(given(teacher=path))
    # a student whose own copies are everywhere may learn from a teacher of its own split, though not of another
    config = resolved(given("protocol=oversampled"))
    table, parts = load_split(config)
    card = skinkd.training.run.card(config, table, parts)
    load(given("protocol=oversampled", teacher=changed_card(finished, tmp_path / "b.ckpt", **card)))
    with pytest.raises(UserError, match="was trained on"):
        load(given("protocol=oversampled", "data.split_seed=1", teacher=tmp_path / "b.ckpt"))


@pytest.mark.parametrize("link", ["method.teacher.ckpt", "backbone.weights"])
def test_a_chain_of_runs_hides_no_image(
    link: str, given: Callable[..., DictConfig], finished: Path, trained: Callable[..., Path], tmp_path: Path
) -> None:
    table, parts = load_split(resolved(given()))
    frame = table.frame[["image_id", "group"]].assign(part=parts.to_numpy())
    test = frame[frame["part"] == "test"].iloc[0]
    images = {"train": ["elsewhere", test["image_id"]], "val": []}
    first = changed_card(finished, tmp_path / "a.ckpt", images=images, groups={"train": [test["group"]], "val": []})
    teacher = ["method=kd", "method.teacher.allow_overlap=true"] if link.startswith("method") else ["method=supervised"]
    trained(*teacher, f"{link}={first}", "trainer.max_epochs=1")
    second = train_process.only_run(tmp_path / "outputs")
    card = open_checkpoint(second / "checkpoints" / "best.ckpt", setting="x")["skinkd"]
    own = frame[frame["part"] == "train"]["image_id"].tolist()
    assert card["images"]["train"] == [*own, "elsewhere", test["image_id"]]
    assert test["group"] in card["groups"]["train"]
    with pytest.raises(UserError, match="was trained on"):
        load(given(teacher=second))


def test_a_card_of_the_same_split_is_the_runs_own(given: Callable[..., DictConfig], finished: Path) -> None:
    config = resolved(given())
    table, parts = load_split(config)
    before = open_checkpoint(finished / "checkpoints" / "best.ckpt", setting="x")["skinkd"]
    assert (
        skinkd.training.run.card(config, table, parts, [before])
        == skinkd.training.run.card(config, table, parts)
        == before
    )
    assert read_cards([None, finished / "metrics.json", finished / "nothing"]) == []


def test_a_teacher_without_a_self_supervision_head(given: Callable[..., DictConfig]) -> None:
    settings = given("method=ssdkd")
    with pytest.raises(Exception, match="self-supervision head"):
        skinkd.train.train(settings)


# ---------------------------------------------------------------- trained by itself


def start(tiny: list[str], output: Path, *overrides: str) -> train_process.Running:
    words = [*tiny, "method=kd", *SMALL, f"paths.output_dir={output}", *overrides]
    return train_process.start(words, folder=output / "-".join(["job", *overrides]), fork_children=True)


def folders(output: Path, kind: str) -> list[Path]:
    return sorted(path for path in output.glob(f"{kind}-*") if path.is_dir())


def test_two_students_at_once_train_one_teacher(tiny: list[str], tmp_path: Path) -> None:
    running = [start(tiny, tmp_path, "trainer.max_epochs=1", f"seed={seed}") for seed in (0, 1)]
    results = [one.result(timeout=200) for one in running]
    assert [result.code for result in results] == [0, 0]
    (teacher,) = folders(tmp_path, "supervised")
    assert len(folders(tmp_path, "kd")) == 2
    text = "".join(result.out for result in results)
    assert text.count("training the teacher first") == 1
    assert text.splitlines().count(f"training in {teacher}") == 1
    config = yaml.safe_load((teacher / "config.yaml").read_text())
    assert config["job_type"] == "teacher"
    assert config["seed"] == 0
    for folder in folders(tmp_path, "kd"):
        assert metrics_of(folder)["teacher/test/accuracy"] == metrics_of(teacher)["test/accuracy"]


def test_a_teacher_that_is_trained_as_an_ordinary_run_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """That run holds the folder, and not the lock that students take."""
    settings = student("method=kd", f"paths.output_dir={tmp_path}", "evaluation.test=false")
    folder = run_path(teacher_config(settings))
    folder.mkdir()
    trained: list[bool] = []
    monkeypatch.setattr("skinkd.build.teachers._train", lambda _: trained.append((folder / "over").exists()))

    def finish(_: float, *, well: bool) -> None:
        (folder / "over").touch()
        if well:
            (folder / "metrics.json").write_text('{"test/n": 1}')
        lock.close()

    for well in (False, True):  # one that ends unfinished goes on as the teacher's run
        lock = (folder / ".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        # it ends while a student waits between two looks
        monkeypatch.setattr("skinkd.build.teachers.time", SimpleNamespace(sleep=partial(finish, well=well)))
        assert find_teacher(settings) == folder / "checkpoints" / "best.ckpt"
        assert f"waiting for the teacher: another process is running in {folder}" in capfd.readouterr().out
        assert trained == [True]
        (folder / "over").unlink()


def test_killed_while_the_teacher_trains_it_goes_on(tiny: list[str], tmp_path: Path) -> None:
    words = ("trainer.max_epochs=1", "method.teacher.run.trainer.max_epochs=5")
    process = start(tiny, tmp_path, *words).process
    deadline = time.monotonic() + 150
    while not list(tmp_path.glob("supervised-*/checkpoints/last.ckpt")):
        assert process.exitcode is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (teacher,) = folders(tmp_path, "supervised")
    assert not (teacher / "metrics.json").exists()
    seen = len(pd.read_csv(teacher / "history.csv"))
    assert 0 < seen < 5
    result = start(tiny, tmp_path, *words).result(timeout=250)
    assert result.code == 0, result.err
    assert f"going on in {teacher}" in result.out
    assert pd.read_csv(teacher / "history.csv")["epoch"].tolist() == list(range(1, 6))
    assert len(folders(tmp_path, "kd")) == 1


def test_a_teacher_that_cannot_be_trained_is_one_sentence(tiny: list[str], tmp_path: Path) -> None:
    result = train_process.run(
        [*tiny, "method=kd", "method.teacher.run.backbone.name=resnet5", f"paths.output_dir={tmp_path}"],
        folder=tmp_path / "job",
        fork_children=True,
    )
    assert result.code == 2
    assert "the teacher's training ended with exit code 2" in result.err
    assert "Traceback" not in result.err
