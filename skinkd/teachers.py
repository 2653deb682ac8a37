"""Teachers: trained first if they are missing, once, as runs of their own; checked before a student learns from them.

A teacher is an ordinary run: the student's configuration with ``method.teacher.run`` put over it. Its run folder follows
from that configuration, so every student that needs the same teacher finds it there, and the folder tells whether it is
finished, unfinished (its run goes on) or absent.
"""

import copy
import fcntl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from skinkd.errors import UserError
from skinkd.models.teacher import Teacher
from skinkd.runs.console import is_main_process, say
from skinkd.runs.folder import RunFolder, run_path

GROUPS = ("method", "backbone", "optim", "augment")
"""Parts of the configuration that ``method.teacher.run`` replaces whole; the others it merges."""


def teacher_config(settings: DictConfig) -> dict[str, Any]:
    """The resolved configuration of the teacher's run, from the student's unresolved one."""
    config = OmegaConf.to_container(settings, resolve=False)
    assert isinstance(config, dict)
    run = config["method"]["teacher"]["run"]
    teacher = copy.deepcopy(config)
    for name, value in run.items():
        if name in GROUPS or not isinstance(value, dict):
            teacher[name] = value
        else:
            teacher[name] |= value
    teacher |= {"run_dir": None, "job_type": "teacher", "force": False}
    return OmegaConf.to_container(OmegaConf.create(teacher), resolve=True)  # type: ignore[return-value]


def find_teacher(settings: DictConfig) -> Path:
    """The teacher's checkpoint: the given one, or that of the run that ``auto`` describes, trained if need be."""
    given = settings.method.teacher.ckpt
    if given == "auto":
        return _train_once(teacher_config(settings))
    path = Path(given)
    checkpoint = path / "checkpoints" / "best.ckpt" if path.is_dir() else path
    if not checkpoint.is_file():
        raise UserError(
            f"method.teacher.ckpt={given} is neither a run folder with checkpoints/best.ckpt nor a checkpoint; "
            "give one, or method.teacher.ckpt=auto to train the teacher"
        )
    return checkpoint


def _train_once(config: dict[str, Any]) -> Path:
    folder = RunFolder(run_path(config))
    checkpoint = folder.checkpoints / "best.ckpt"
    if not is_main_process():
        while not folder.finished:  # the main process trains it
            time.sleep(1)
        return checkpoint
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    with (folder.path.parent / f".{folder.path.name}.teacher-lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for the teacher that another process is training in {folder.path}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.finished:
            say(f"teacher: {folder.path}")
        else:
            say(f"the teacher comes first: {folder.path}")
            _train(config)
    return checkpoint


def _train(config: dict[str, Any]) -> None:
    """Train a configuration in a process of its own, which leaves nothing behind in this one."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", prefix="skinkd-teacher-") as file:
        yaml.safe_dump(config, file, sort_keys=False)
        file.flush()
        code = subprocess.run([sys.executable, "-m", "skinkd.train", f"config='{file.name}'"], check=False).returncode
    if code:
        raise UserError(
            f"the teacher's training ended with exit code {code}, as said above; mend that and give the same command "
            f"again: it goes on in {run_path(config)}"
        )


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
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    card = stored.get("skinkd")
    if not card:
        raise UserError(
            f"method.teacher.ckpt: {checkpoint} is no checkpoint of this project; train the teacher with it"
        )
    if card["classes"] != list(table.classes):
        raise UserError(
            f"method.teacher.ckpt: the teacher in {checkpoint} knows the classes {', '.join(card['classes'])}, the "
            f"student's data has {', '.join(table.classes)}; give a teacher trained on the same classes"
        )
    settings = config["method"]["teacher"]
    _check_overlap(card, checkpoint, table, parts, allow=settings["allow_overlap"])
    backbone = {**card["backbone"], "pretrained": False, "weights": None}
    network = instantiate(backbone, num_classes=len(table.classes), _convert_="all")
    state = stored["state_dict"]
    prefix = "network."
    network.load_state_dict(
        {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    )
    teacher = Teacher(network, image_size=card["backbone"]["image_size"], bf16=settings["bf16"])
    if settings["compile"]:
        network.features = torch.compile(network.features)
    return teacher, {name: value for name, value in state.items() if not name.startswith(prefix)}


def _check_overlap(card: dict[str, Any], checkpoint: Path, table: Any, parts: pd.Series, *, allow: bool) -> None:
    frame = table.frame[(parts != "train").to_numpy()]
    seen = frame["image_id"].isin(card["seen_images"]) | frame["group"].isin(card["seen_groups"])
    if not seen.any():
        return
    sentence = (
        f"the teacher in {checkpoint} was trained or selected on {int(seen.sum())} of the student's "
        f"{len(frame)} validation and test images, or on their lesions"
    )
    if not allow:
        raise UserError(
            f"method.teacher.ckpt: {sentence}; use method.teacher.ckpt=auto, or method.teacher.allow_overlap=true to go on"
        )
    say(f"warning: {sentence}")
