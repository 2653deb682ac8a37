"""Teachers: trained first if they are missing, once, as runs of their own; checked before a student learns from them.

A teacher is an ordinary run: the student's configuration with ``method.teacher.run`` put over it. Its run folder follows
from that configuration, so every student that needs the same teacher finds it there, and the folder tells whether it is
finished, unfinished (its run goes on) or absent.
"""

import copy
import ctypes
import fcntl
import functools
import inspect
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from skinkd.checkpoints import find_checkpoint, open_checkpoint, rebuild
from skinkd.errors import UserError, nearest
from skinkd.models.teacher import Teacher
from skinkd.runs.console import is_main_process, say
from skinkd.runs.folder import RunFolder, run_path
from skinkd.runs.sweep import stage_of

GROUPS = ("method", "backbone", "optim", "augment")
"""Parts of the configuration that a choice in ``method.teacher.run`` replaces whole; all else is merged."""

_FREE_FORM = ("options",)  # mappings whose names are somebody else's

_OF_THE_RUN = {"run_dir": None, "job_type": "teacher", "force": False, "config": None}

# what tells a process that it is one of several, which a teacher's process is not
_RANK = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD",
    "NODE_RANK",
    "GROUP_",
    "ROLE_",
    "MASTER_",
    "TORCHELASTIC_",
    "SLURM_",
)

Config = dict[str, Any]


def resolved(settings: DictConfig) -> Config:
    """The configuration with every interpolation resolved, and ``method.teacher.run`` being all that its run has other.

    So what a teacher takes from its own configuration (image sizes from ``data``) is the teacher's, and a stored
    configuration names the same teacher as the command line it came from.
    """
    config: Config = OmegaConf.to_container(settings, resolve=True)  # type: ignore[assignment]
    if "teacher" in config["method"]:
        run, under = teacher_config(settings), _for_any_student(config)
        other = {name: value for name, value in run.items() if name not in _OF_THE_RUN and value != under[name]}
        config["method"]["teacher"]["run"] = other
    return config


def teacher_config(settings: DictConfig) -> Config:
    """The resolved configuration of the teacher's run, from the student's, resolved or not.

    Raises:
        UserError: ``method.teacher.run`` has a name that the student's configuration has not.
    """
    student: Config = OmegaConf.to_container(settings, resolve=False)  # type: ignore[assignment]
    run = _inherit(student["method"]["teacher"]["run"], student)
    teacher = _for_any_student(student)
    teacher.pop("given", None)  # of the student's own weights
    _check_names(run, teacher)
    for name, value in run.items():
        teacher[name] = value if name in GROUPS and _is_choice(value) else _merged(teacher[name], value)
    teacher |= _OF_THE_RUN
    return resolved(OmegaConf.create(teacher))


def _for_any_student(config: Config) -> Config:
    """A copy in which what changes neither the teacher's weights nor how it is compared has its default.

    So students that differ in it share their teacher. The bins of the calibration error and the level of the intervals stay
    the student's, since only runs that agree in them are compared; so does ``data.eval_batch_size``, which may be set because
    the memory has room for no more.
    """
    config, default = copy.deepcopy(config), _defaults()
    for name in ("bootstrap_replicates", "early_exit_thresholds"):
        config["evaluation"][name] = default["evaluation"][name]
    if "near_duplicate_bits" not in config["data"]["table"]:  # else it decides the groups, and so the split
        config["data"]["near_duplicate_bits"] = default["data"]["near_duplicate_bits"]
    return config


@functools.cache
def _defaults() -> Config:
    text = files("skinkd.conf").joinpath("train.yaml").read_text(encoding="utf-8")
    defaults: Config = yaml.safe_load(text)
    return defaults


def _is_choice(value: Any) -> bool:
    """Whether it is a file of a group, which is whole, and no single settings: it says what is to be built."""
    if not isinstance(value, dict):
        return True
    return "_target_" in value or any(isinstance(one, dict) and "_target_" in one for one in value.values())


def _check_names(run: Any, student: Any, place: str = "") -> None:
    """Refuse a name in ``method.teacher.run`` that nothing would read."""
    if not (isinstance(run, dict) and isinstance(student, dict)) or (place and _is_choice(run)):
        return
    known = [name for name in student if not name.startswith("_")]
    if place == "trainer.":
        known += [name for name in inspect.signature(L.Trainer).parameters if name not in known]
    for name, value in run.items():
        if name not in known and not name.startswith("_"):
            raise UserError(f"method.teacher.run.{place}{name} is not a setting{nearest(name, known)}")
        if name not in _FREE_FORM:
            _check_names(value, student.get(name), f"{place}{name}.")


def _inherit(node: Any, student: Config, place: tuple[str, ...] = ()) -> Any:
    """Put the student's own value wherever one names its own place, at any depth of teachers: ``optim: ${optim}``."""
    if isinstance(node, dict):
        start = () if place[-3:] == ("method", "teacher", "run") else place
        return {name: _inherit(value, student, (*start, name)) for name, value in node.items()}
    if node != f"${{{'.'.join(place)}}}":
        return node
    value = student
    for name in place:
        value = value[name]
    return copy.deepcopy(value)


def _merged(under: Any, over: Any) -> Any:
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return under | {name: _merged(under.get(name), value) for name, value in over.items()}


def find_teacher(settings: DictConfig) -> Path:
    """The teacher's checkpoint: the given one, or that of the run that ``auto`` describes, trained if need be."""
    given = settings.method.teacher.ckpt
    if given == "auto":
        return _train_once(teacher_config(settings))
    return find_checkpoint(given, setting="method.teacher.ckpt")


def _train_once(config: dict[str, Any]) -> Path:
    folder = RunFolder(run_path(config))
    checkpoint = folder.checkpoints / "best.ckpt"
    if not is_main_process():
        while not folder.finished_with(test=config["evaluation"]["test"]):  # the main process trains it
            time.sleep(1)
        return checkpoint
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    with (folder.path.parent / f".{folder.path.name}.teacher-lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for the teacher that another process is training in {folder.path}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        _wait_for_its_own_run(folder, config)
        if folder.finished_with(test=config["evaluation"]["test"]):
            say(f"teacher: {folder.path}")
        else:
            say(f"the teacher comes first: {folder.path}")
            _train(config)
    return checkpoint


def _wait_for_its_own_run(folder: RunFolder, config: Config) -> None:
    """Wait while somebody trains the teacher as an ordinary run, which takes the run folder's lock and not the teacher's."""
    stage = stage_of(folder.path, config)
    if stage.held and not stage.finished:
        say(f"waiting for the run in {folder.path}, which is the teacher")
        while stage.held and not stage.finished:
            time.sleep(1)


def _train(config: dict[str, Any]) -> None:
    """Train a configuration in a process of its own, which leaves nothing behind in this one."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", prefix="skinkd-teacher-") as file:
        yaml.safe_dump(config, file, sort_keys=False)
        file.flush()
        command = [sys.executable, "-m", "skinkd.train", f"config='{file.name}'"]
        alone = {name: value for name, value in os.environ.items() if not name.startswith(_RANK)}
        code = subprocess.run(command, env=alone, preexec_fn=_end_with_parent, check=False).returncode
    if code:
        raise UserError(
            f"the teacher's training ended with exit code {code}, as said above; mend that and give the same command "
            f"again: it goes on in {run_path(config)}"
        )


def _end_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, however that ends.

    A teacher left training by a killed student's process would hold the run folder against the command given again.
    """
    if sys.platform == "linux":
        parent_death_signal = 1
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


def teacher_scores(checkpoint: Path) -> dict[str, float]:
    """The test metrics of the teacher's own run as ``teacher/test/<name>``, which are those of its best checkpoint.

    None for any other file, such as ``last.ckpt``, nor for one outside a finished run folder.
    """
    folder = RunFolder(checkpoint.parent.parent)
    if checkpoint.name != "best.ckpt" or not folder.finished:
        say(f"there are no test scores of the teacher in {checkpoint}: it is not the best.ckpt of a finished run")
        return {}
    scores = {
        name: value for name, value in folder.metrics().items() if name.startswith("test/") and name.count("/") == 1
    }
    return {f"teacher/{name}": value for name, value in scores.items() if not name.endswith(("_low", "_high"))}


def load_teacher(
    config: dict[str, Any], checkpoint: Path, table: Any, parts: pd.Series
) -> tuple[Teacher, dict[str, Any]]:
    """Build the teacher from its checkpoint, after checking that the student may learn from it.

    Returns:
        The teacher, and the rest of the checkpoint's weights (such as a projector's) by name.

    Raises:
        UserError: no checkpoint of this project, other classes, or training images among the student's validation or
            test images (``method.teacher.allow_overlap=true`` makes that a warning).
    """
    stored = open_checkpoint(checkpoint, setting="method.teacher.ckpt")
    card = stored["skinkd"]
    if card["classes"] != list(table.classes):
        raise UserError(
            f"method.teacher.ckpt: the teacher in {checkpoint} knows the classes {', '.join(card['classes'])}, the "
            f"student's data has {', '.join(table.classes)}; give a teacher trained on the same classes"
        )
    _check_overlap(config, card, checkpoint, table, parts)
    network, _, others = rebuild(stored)
    settings = config["method"]["teacher"]
    teacher = Teacher(network, image_size=card["backbone"]["image_size"], bf16=settings["bf16"])
    if settings["compile"]:
        network.features = torch.compile(network.features)  # type: ignore[method-assign]
    return teacher, others


def _check_overlap(config: Config, card: Config, checkpoint: Path, table: Any, parts: pd.Series) -> None:
    """Refuse a teacher that was trained on the student's validation or test images, or selected on its test images."""
    trained = _seen(config, card, "train", table.frame, parts) & (parts != "train").to_numpy()
    selected = _seen(config, card, "val", table.frame, parts) & (parts == "test").to_numpy()
    if not (trained | selected).any():
        return
    sentence = (
        f"the teacher in {checkpoint} was trained on {int(trained.sum())} of the student's "
        f"{int((parts != 'train').sum())} validation and test images and selected on {int(selected.sum())} of its "
        f"{int((parts == 'test').sum())} test images, or on other images of their lesions"
    )
    if not config["method"]["teacher"]["allow_overlap"]:
        raise UserError(
            f"method.teacher.ckpt: {sentence}; use method.teacher.ckpt=auto, or method.teacher.allow_overlap=true to go on"
        )
    say(f"warning: {sentence}")


def _seen(config: Config, card: Config, part: str, frame: pd.DataFrame, parts: pd.Series) -> Any:
    """Which images were in that part of the teacher's data; by lesion too, where the student's split keeps lesions whole.

    An image that protocol=oversampled copied is the same as its copies. Those whose copies the student itself learns from do
    not count: that is what that protocol does, and a teacher of the same split adds nothing to it.
    """
    seen = frame["image_id"].isin(card["images"][part])
    original = _originals(frame["image_id"])
    own = original[parts.isin(("train", part)).to_numpy()]
    seen |= original.isin(_originals(pd.Series(card["images"][part], dtype=object))) & ~original.isin(own)
    if config["protocol"] == "grouped":
        seen |= frame["group"].isin(card["groups"][part])
    return seen.to_numpy()


def _originals(ids: pd.Series) -> pd.Series:
    """The images' ids without the number of a copy, ``#2`` and so on."""
    return ids.astype(str).str.replace(r"#\d+$", "", regex=True)
