"""Which run a student's teacher is: its settings, and what gives another teacher."""

import copy
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from skinkd.config.identity import identity, run_path
from skinkd.config.resolve import resolved, teacher_config
from skinkd.errors import UserError


def student(*overrides: str) -> DictConfig:
    return copy.deepcopy(_composed(overrides))


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        return compose("train", overrides=["data=synthetic", *overrides])


@cache
def teacher_folder(*overrides: str) -> Path:
    """Where the run of the student's teacher lies."""
    return run_path(teacher_config(student(*overrides)))


def test_students_of_every_seed_and_weight_share_one_teacher() -> None:
    base = teacher_folder("method=kd")
    assert teacher_folder("method=kd", "seed=1") == base
    assert teacher_folder("method=kd", "method.temperature=2", "backbone=resnet101") == base
    assert teacher_folder("method=rkd", "run_dir=/elsewhere", "force=true") == base


@pytest.mark.parametrize(
    "change",
    ["data.split_seed=1", "trainer.max_epochs=7", "class_weights=inverse", "data.image_size=96",
     "backbone@method.teacher.run.backbone=resnet18", "method.teacher.run.seed=1", "optim=sgd_cosine"],
)  # fmt: skip
def test_what_determines_a_teacher_gives_another_one(change: str) -> None:
    assert teacher_folder("method=kd", change) != teacher_folder("method=kd")


def test_a_teacher_is_the_run_that_a_user_would_start() -> None:
    """``method=kd`` and ``method=supervised backbone=resnet50`` meet in one folder."""
    assert teacher_folder("method=kd") == run_path(resolved(student("method=supervised", "backbone=resnet50")))


def test_the_stages_of_ssdkd() -> None:
    settings = student("method=ssdkd", "backbone.pretrained=false", "trainer.max_epochs=2", "optim=sgd_plateau")
    head = teacher_config(settings)
    assert head["method"]["name"] == "ssdkd_projection"
    assert head["backbone"]["name"] == "resnet50"
    assert head["backbone"]["pretrained"] is False
    assert head["trainer"]["max_epochs"] == 2
    assert head["monitor"] == {"metric": "val/retrieval_loss", "mode": "min"}
    assert head["optim"]["schedule"]["at"] == [0.5, 0.75]
    first = teacher_config(OmegaConf.create(head))
    assert first["method"]["name"] == "supervised"
    assert first["backbone"] == head["backbone"]
    # the first stage is trained as the student is, not as the head
    whole = resolved(settings)
    assert (first["optim"], first["monitor"]) == (whole["optim"], whole["monitor"])
    assert first["early_stopping"] == whole["early_stopping"]
    assert first["trainer"]["max_epochs"] == 2


def test_a_teachers_own_epochs_and_image_size() -> None:
    settings = student("method=kd", "+method.teacher.run.data.image_size=96", "method.teacher.run.trainer.max_epochs=5")
    teacher = teacher_config(settings)
    assert teacher["trainer"]["max_epochs"] == 5
    assert teacher["data"]["image_size"] == teacher["backbone"]["image_size"] == 96
    assert resolved(settings)["data"]["image_size"] == 64
    assert resolved(settings)["backbone"]["image_size"] == 64


@pytest.mark.parametrize("method", ["kd", "ssdkd", "mskd"])
def test_a_stored_configuration_names_the_same_run_and_teacher(method: str) -> None:
    settings = student(f"method={method}", "+method.teacher.run.data.image_size=96")
    own = resolved(settings)
    stored = OmegaConf.create(own)
    again = resolved(stored)
    assert again == own
    assert teacher_config(stored) == teacher_config(settings)
    assert identity(again) == identity(own)


def test_a_teachers_own_learning_rate() -> None:
    settings = student(
        "method=kd", "+method.teacher.run.optim.lr=0.01", "+method.teacher.run.optim.schedule.warmup_fraction=0"
    )
    own, teacher = resolved(settings)["optim"], teacher_config(settings)["optim"]
    assert (own["lr"], own["optimizer"]["lr"]) == (0.1, 0.1)
    assert (teacher["lr"], teacher["optimizer"]["lr"]) == (0.01, 0.01)
    assert teacher["schedule"] == own["schedule"] | {"warmup_fraction": 0}
    assert teacher_config(OmegaConf.create(resolved(settings))) == teacher_config(settings)
    choice = teacher_config(student("method=kd", "+optim@method.teacher.run.optim=adam_plateau", "optim.lr=0.3"))[
        "optim"
    ]
    assert choice["optimizer"]["_target_"] == "torch.optim.Adam"
    assert choice["optimizer"]["lr"] == 0.001


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("data.image_sze=96", r"method\.teacher\.run\.data\.image_sze is not a setting; did you mean 'image_size'"),
        ("optm.lr=3", r"method\.teacher\.run\.optm is not a setting; did you mean 'optim'"),
        ("optim.learning_rate=3", r"method\.teacher\.run\.optim\.learning_rate is not a setting"),
        ("data.fractions.training=0.5", r"run\.data\.fractions\.training is not a setting; did you mean 'train'"),
        ("trainer.max_epoch=3", r"run\.trainer\.max_epoch is not a setting; did you mean 'max_epochs'"),
    ],
)
def test_a_misspelt_setting_of_the_teacher_is_refused(change: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        teacher_config(student("method=kd", f"+method.teacher.run.{change}"))


def test_a_misspelt_setting_of_a_teachers_teacher_is_refused() -> None:
    with pytest.raises(UserError, match="image_sze is not a setting"):
        resolved(student("method=ssdkd", "+method.teacher.run.method.teacher.run.data.image_sze=96"))


@pytest.mark.parametrize(
    "change", ["backbone.options.drop_path_rate=0.1", "trainer.gradient_clip_algorithm=norm", "sampler_target=30"]
)
def test_what_is_right_in_a_teachers_recipe_passes(change: str) -> None:
    teacher_config(student("method=kd", f"+method.teacher.run.{change}"))


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("kd", "evaluation.bootstrap_replicates=10"),
        ("ssdkd", "evaluation.early_exit_thresholds=[0.5]"),  # whose teacher has a teacher
        ("kd", "data.near_duplicate_bits=null"),
    ],
)
def test_what_changes_no_teacher_gives_no_other_one(method: str, change: str) -> None:
    plain, other = student(f"method={method}"), student(f"method={method}", change)
    teacher, own = teacher_config(other), resolved(other)
    assert run_path(teacher) == teacher_folder(f"method={method}")
    # the student's own folder is what it was: its recipe of the teacher says nothing of it
    name, _, key = change.partition("=")[0].partition(".")
    assert name not in own["method"]["teacher"]["run"]
    assert own[name][key] != plain[name][key]
    assert teacher_config(OmegaConf.create(own)) == teacher


def test_what_the_student_says_of_its_teachers_scoring_counts() -> None:
    settings = student(
        "method=kd", "evaluation.bootstrap_replicates=10", "+method.teacher.run.evaluation.bootstrap_replicates=10"
    )
    assert teacher_config(settings)["evaluation"]["bootstrap_replicates"] == 10
    assert teacher_config(OmegaConf.create(resolved(settings))) == teacher_config(settings)


def test_near_duplicates_that_decide_the_groups_give_another_teacher() -> None:
    folder = ["method=kd", "data=folder", "data.root=/images"]
    one, other = (teacher_folder(*folder, f"data.near_duplicate_bits={bits}") for bits in (32, 16))
    assert one != other
