"""Run folders are found, left out with a reason, gathered into rows, and refused where they cannot be compared."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from run_factory import CLASSES, MakeRun, image_rows

from skinkd.analysis.rows import check_comparable, group_rows
from skinkd.analysis.runs import Found, read_runs
from skinkd.errors import UserError


def read(*places: Path) -> Found:
    return read_runs(places, output_dir=places[0].parent)


def change_metric(folder: Path, name: str, value: object) -> None:
    path = folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))


def change_column(path: Path, column: str, value: str) -> None:
    """Overwrite one value in the middle of a table."""
    table = pd.read_csv(path, dtype=str)
    table.loc[2, column] = value
    table.to_csv(path, index=False)


def rename_class(path: Path) -> None:
    path.write_text(path.read_text().replace("mel", "other"))


def test_a_folder_of_runs_is_read_whole(study: Path) -> None:
    found = read(study)
    assert len(found.runs) == 9 and not found.skipped
    run = found.runs[0]
    assert run.classes == CLASSES
    assert run.metrics["test/accuracy"] == (run.test["label"] == run.test["prediction"]).mean()
    assert {run.method for run in found.runs} == {"supervised", "kd", "swskd"}


def test_a_run_that_is_named_twice_counts_once(study: Path) -> None:
    one = min(study.iterdir())
    assert len(read(study, one, one / ".." / one.name).runs) == 9


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "metrics.json").unlink(), "not finished"),
        (lambda folder: (folder / "metrics.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "metrics.json").write_text('{"val/accuracy": 0.5}'), "validation only"),
        (lambda folder: (folder / "predictions" / "test.csv").write_text("image_id\n"), "damaged"),
        (lambda folder: (folder / "history.csv").unlink(), "damaged"),
        (lambda folder: (folder / "config.yaml").write_text("seed: [0"), "damaged"),
        (lambda folder: (folder / "config.yaml").write_text("just a word"), "damaged"),
        (lambda folder: (folder / "config.yaml").write_text("run: outputs/other"), "an evaluation"),
        (lambda folder: (folder / "config.yaml").write_text("a word and a run"), "damaged: config.yaml"),
        (lambda folder: (folder / "metrics.json").write_text('"test/accuracy"'), "damaged: metrics.json"),
        (lambda folder: (folder / "metrics.json").write_text("[]"), "damaged: metrics.json"),
        (lambda folder: change_metric(folder, "macs", None), "damaged: macs in metrics.json is None"),
        (lambda folder: change_metric(folder, "parameters", "many"), "damaged: parameters"),
        (lambda folder: change_column(folder / "predictions" / "test.csv", "prediction", "wart"), "damaged: test.csv"),
        (
            lambda folder: change_column(folder / "predictions" / "test.csv", "p_mel", ""),
            "damaged: cannot read predictions",
        ),
        (
            lambda folder: change_column(folder / "predictions" / "test.csv", "p_mel", "nan"),
            "probability of image test_",
        ),
        (lambda folder: change_column(folder / "predictions" / "test.csv", "p_mel", "7"), "probability of image test_"),
        (lambda folder: change_column(folder / "predictions" / "val.csv", "p_mel", "inf"), "probability of image val_"),
        (lambda folder: rename_class(folder / "predictions" / "val.csv"), "damaged: val.csv has the classes"),
        (lambda folder: change_column(folder / "history.csv", "seconds", "long"), "damaged: seconds in history.csv"),
    ],
)
def test_what_cannot_be_compared_is_left_out_by_name(make_run: MakeRun, spoil: object, reason: str) -> None:
    make_run("supervised")
    other = make_run("kd")
    spoil(other)  # type: ignore[operator]
    found = read(other.parent)
    assert [run.method for run in found.runs] == ["supervised"]
    (skipped,) = found.skipped
    assert skipped.folder == other and re.search(reason, skipped.reason)
    with pytest.raises(UserError, match=f"{other.name}.*{reason}"):
        read(other)


def test_costs_that_a_run_does_not_know_are_no_damage(make_run: MakeRun) -> None:
    folder = make_run("kd")
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(
        json.dumps({name: value for name, value in metrics.items() if name not in ("macs", "parameters")})
    )
    assert not read(folder).skipped


def test_teachers_are_no_rows_unless_they_are_named(make_run: MakeRun) -> None:
    student = make_run("kd")
    teacher = make_run("supervised", job_type="teacher")
    found = read(student.parent)
    assert [run.method for run in found.runs] == ["kd"] and "teacher" in found.skipped[0].reason
    assert len(read(student.parent, teacher).runs) == 2


def test_a_sweep_is_read_by_its_folder_and_by_its_name(make_run: MakeRun) -> None:
    jobs = [make_run("kd", job_type="teacher"), make_run("swskd")]
    make_run("at")  # beside the sweep
    output = jobs[0].parent
    sweep = output / "sweeps" / "ours"
    sweep.mkdir(parents=True)
    folders = [jobs[0].name, str(jobs[1]), "not-begun"]
    sweep.joinpath("sweep.json").write_text(
        json.dumps({"group": "ours", "jobs": [{"overrides": [], "folder": folder, "name": ""} for folder in folders]})
    )
    for place in (sweep, Path("ours")):
        found = read_runs([place], output_dir=output)
        assert sorted(run.method for run in found.runs) == ["kd", "swskd"]
        assert [(one.folder.name, one.reason) for one in found.skipped] == [("not-begun", "not begun")]
    with pytest.raises(UserError, match="did you mean 'ours'"):
        read_runs([Path("our")], output_dir=output)
    sweep.joinpath("sweep.json").write_text("[]")
    with pytest.raises(UserError, match="cannot be read as a sweep"):
        read_runs([sweep], output_dir=output)


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run folders"):
        read(tmp_path)
    with pytest.raises(UserError, match="neither a folder nor a sweep"):
        read(tmp_path / "absent")


def test_rows_are_the_same_but_for_seed_and_fold(make_run: MakeRun) -> None:
    for seed in (0, 1):
        for fold in (0, 1):
            make_run("kd", seed=seed, data__fold=fold, data__folds=5)
    folder = make_run("kd", seed=0, data__fold=0, data__folds=5, optim__lr=0.2)
    rows = group_rows(read(folder.parent).runs)
    assert [row.label for row in rows] == ["kd (lr=0.1)", "kd (lr=0.2)"]
    assert [run.place for run in rows[0].runs] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert len(rows[1].runs) == 1


def test_what_changes_no_number_makes_no_row(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("kd", seed=0, logger__kind="csv", data__root=str(tmp_path / "outputs" / "images"))
    moved = tmp_path / "elsewhere"
    folder = make_run("kd", seed=1, group="sweep", data__root=str(moved / "images"), paths__output_dir=str(moved))
    (row,) = group_rows(read(folder, tmp_path / "outputs").runs)
    assert row.label == "kd" and len(row.runs) == 2


@pytest.mark.parametrize("nested", [False, True])
def test_a_teacher_of_one_seed_does_not_split_the_students(make_run: MakeRun, nested: bool) -> None:
    """A stored teacher has only what differs from its student: its seed 0 for the student of seed 1, no seed for 0."""
    for seed in (0, 1, 2):
        run: dict = {"method": {"name": "supervised"}} | ({"seed": 0} if seed else {})
        if nested:
            run = {"method": {"name": "projection", "teacher": {"run": run}}} | ({"seed": 0} if seed else {})
        folder = make_run("kd", seed=seed, method__teacher={"ckpt": "auto", "run": run})
    (row,) = group_rows(read(folder.parent).runs)
    assert [run.seed for run in row.runs] == [0, 1, 2]


def test_students_of_one_seed_and_several_teachers_are_several_rows(make_run: MakeRun) -> None:
    for teacher_seed in (1, 2):
        for seed in (0, 5):
            run = {"seed": teacher_seed, "method": {"name": "supervised"}}
            folder = make_run("kd", seed=seed, method__teacher={"ckpt": "auto", "run": run})
    rows = group_rows(read(folder.parent).runs)
    assert [len(row.runs) for row in rows] == [2, 2]
    assert len({row.label for row in rows}) == 2


@pytest.mark.parametrize(
    ("variants", "labels"),
    [
        ([("kd", {}), ("supervised", {})], ["kd", "supervised"]),
        (
            [("kd", {}), ("kd", {"backbone__name": "resnet50"}), ("supervised", {})],
            ["kd (resnet18)", "kd (resnet50)", "supervised (resnet18)"],
        ),
        (
            [("kd", {}), ("kd", {"protocol": "image_level", "data__split_seed": 3})],
            ["kd (grouped)", "kd (image_level)"],
        ),
        (
            [("kd", {"method__loss_weights": {"a": a, "b": b}}) for a in (0, 0.5) for b in (0, 1.0)]
            + [("supervised", {})],
            ["kd (a=0, b=0)", "kd (a=0, b=1)", "kd (a=0.5, b=0)", "kd (a=0.5, b=1)", "supervised"],
        ),
        (
            [("kd", {"backbone__pretrained": value, "ema": {"decay": decay}}) for value, decay in ((True, 0.9), (False, None))],
            ["kd (pretrained=false)", "kd (pretrained=true)"],
        ),
    ],
)  # fmt: skip
def test_labels_are_the_shortest_that_tell_rows_apart(
    make_run: MakeRun, variants: list[tuple[str, dict]], labels: list[str]
) -> None:
    for method, settings in variants:
        folder = make_run(method, **settings)
    assert [row.label for row in group_rows(read(folder.parent).runs)] == labels


def test_names_in_plots_say_only_what_tells_this_row_from_the_others(make_run: MakeRun) -> None:
    for ratio, warmup in ((0.1, 0), (0.1, 3), (0.5, 0), (1.0, 0)):
        make_run("tsskd", method__ratio=ratio, method__warmup_epochs=warmup)
    for network in ("resnet18", "resnet50"):
        folder = make_run("supervised", backbone__name=network)
    rows = group_rows(read(folder.parent).runs)
    assert [row.short for row in rows] == [
        "supervised (resnet18)",
        "supervised (resnet50)",
        "tsskd (ratio=0.1, warmup_epochs=0)",
        "tsskd (warmup_epochs=3)",
        "tsskd (ratio=0.5)",
        "tsskd (ratio=1)",
    ]
    assert rows[2].label == "tsskd (resnet18, ratio=0.1, warmup_epochs=0)"


def test_long_values_still_give_labels_of_their_own(make_run: MakeRun) -> None:
    for p in (0.1, 0.2, 0.3):
        folder = make_run("kd", augment={"train": [{"_target_": "albumentations.HorizontalFlip", "p": p}]})
    labels = [row.label for row in group_rows(read(folder.parent).runs)]
    assert len(set(labels)) == 3 and all(len(label) < 30 for label in labels)


def test_the_same_run_in_two_places_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    one = make_run("kd")
    shutil.copytree(one, tmp_path / "copy")
    with pytest.raises(UserError, match="same configuration and seed"):
        group_rows(read(one, tmp_path / "copy").runs)


def changed(column: str, value: str) -> object:
    rows = image_rows(CLASSES, images=120, fold=None)
    rows.loc[5, column] = value if rows.loc[5, column] != value else CLASSES[0]
    return rows


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"images": 100}, "test images (100 and 120, of which 100 are the same)"),
        ({"rows": changed("image_id", "other")}, "of which 119 are the same"),
        ({"rows": changed("label", "nv")}, "the labels of 1 test images"),
        ({"rows": changed("group", "other lesion")}, "the lesions of 1 test images"),
        ({"classes": ("bcc", "akiec", "mel", "nv")}, "their classes"),
        ({"data__fold": 0}, "their folds"),
    ],
)
def test_runs_of_different_test_sets_are_refused(make_run: MakeRun, settings: dict, words: str) -> None:
    one, other = make_run("supervised"), make_run("kd", **settings)
    rows = group_rows(read(one.parent).runs)
    with pytest.raises(UserError) as error:
        check_comparable(rows, across=False)
    assert words in str(error.value) and one.name in str(error.value) and other.name in str(error.value)
    check_comparable(rows, across=True)


def test_seeds_of_one_row_must_share_their_test_set_whatever_is_allowed(make_run: MakeRun) -> None:
    make_run("kd", seed=0)
    folder = make_run("kd", seed=1, images=100)
    rows = group_rows(read(folder.parent).runs)
    for across in (False, True):
        with pytest.raises(UserError, match="test images") as error:
            check_comparable(rows, across=across)
        assert "--across-test-sets" not in str(error.value)


def test_folds_are_compared_fold_by_fold(make_run: MakeRun) -> None:
    for fold in (0, 1):
        make_run("supervised", data__fold=fold, data__folds=3)
        folder = make_run("kd", data__fold=fold, data__folds=3)
    check_comparable(group_rows(read(folder.parent).runs), across=False)
    make_run("kd", data__fold=2, data__folds=3)
    with pytest.raises(UserError, match=r"folds \(0, 1, 2, and 0, 1\)"):
        check_comparable(group_rows(read(folder.parent).runs), across=False)


def test_a_real_configuration_round_trips(make_run: MakeRun) -> None:
    """What labels and rows are made of is what the folder says, not what the factory meant."""
    folder = make_run("kd", seed=4)
    (run,) = read(folder).runs
    assert run.config == yaml.safe_load((folder / "config.yaml").read_text()) and run.seed == 4
