"""Finds the teacher of a student, trains it first if it is missing, and checks that the student may learn from it.

A teacher is an ordinary run (its configuration: ``skinkd.config.teacher_recipe``). Its run folder says whether it is
finished, unfinished (then the run goes on) or absent.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from omegaconf import DictConfig

from skinkd.build.checkpoints import find_checkpoint, open_checkpoint, rebuild
from skinkd.config.identity import run_path
from skinkd.config.quoting import hydra_value
from skinkd.config.resolve import teacher_config
from skinkd.errors import UserError
from skinkd.jobs.sweep import stage_of
from skinkd.models.teacher import Teacher
from skinkd.runs.console import is_main_process, say
from skinkd.runs.files import Lock, written_atomically
from skinkd.runs.folder import RunFolder

# environment variables of a process that is one of several ranks; a teacher's process is not
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


def find_teacher(settings: DictConfig) -> Path:
    """Return the given checkpoint of the teacher, or with ``auto`` that of the described run, which is trained if missing."""
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
    lock = Lock(folder.path.parent / f".{folder.path.name}.teacher-lock")
    if not lock.take():
        say(f"waiting for the teacher that another process is training in {folder.path}")
        lock.wait()
    try:
        _wait_for_ordinary_run(folder, config)
        if folder.finished_with(test=config["evaluation"]["test"]):
            say(f"teacher: {folder.path}")
        else:
            say(f"training the teacher first: {folder.path}")
            _train(config)
    finally:
        lock.release()
    return checkpoint


def _wait_for_ordinary_run(folder: RunFolder, config: Config) -> None:
    """Wait while another process trains the teacher as an ordinary run: that takes the run folder's lock only."""
    stage = stage_of(folder.path, config)
    if stage.held and not stage.finished:
        say(f"waiting for the teacher: another process is running in {folder.path}")
        while stage.held and not stage.finished:
            time.sleep(1)


def _train(config: dict[str, Any]) -> None:
    """Train a configuration in a separate process, so that nothing of it stays in this process."""
    folder = run_path(config)
    recipe = folder.with_name(f".{folder.name}.teacher.yaml")  # on the disk of the runs: that of TMPDIR may be full
    with written_atomically(recipe) as temporary:
        temporary.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    # a stored configuration writes below the command's folders, so they are given
    folders = [f"paths.{name}={hydra_value(str(path))}" for name, path in config["paths"].items()]
    command = [sys.executable, "-m", "skinkd.train", f"config={hydra_value(str(recipe.absolute()))}", *folders]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_RANK)}
    try:
        code = _ended(subprocess.Popen(command, env=environment, preexec_fn=_end_with_parent))
    finally:
        recipe.unlink(missing_ok=True)
    if code:
        raise UserError(
            f"the teacher's training ended with exit code {code}; fix the error above and give the same command again: "
            f"it goes on in {run_path(config)}"
        )


def _ended(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the teacher's process and return its exit code.

    A signal to stop is passed on, so that the teacher saves its step first; then this process ends. A second Ctrl-C kills the
    teacher.
    """
    asked: list[int] = []

    def ask(number: int, _: Any) -> None:
        if number == signal.SIGINT in asked:
            process.kill()
        asked.append(number)
        process.terminate()  # a terminal has sent Ctrl-C to the teacher too, and a second one would stop it at once

    numbers = [signal.SIGTERM, signal.SIGINT] if threading.current_thread() is threading.main_thread() else []
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise SystemExit(1 if asked[0] == signal.SIGINT else 128 + signal.SIGTERM)
    return code


def _end_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, even if the parent is killed.

    Otherwise the teacher would go on training, and hold the run folder when the user gives the command again.
    """
    if sys.platform == "linux":
        parent_death_signal = 1
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


def teacher_scores(checkpoint: Path) -> dict[str, float]:
    """Return the test metrics of the teacher's run as ``teacher/test/<name>``.

    They are the scores of the run's best.ckpt. The result is empty for any other file, such as ``last.ckpt``, and for a
    file outside a finished run folder.
    """
    folder = RunFolder(checkpoint.parent.parent)
    if checkpoint.name != "best.ckpt" or not folder.finished:
        say(f"there are no test scores of the teacher {checkpoint}: it is not the best.ckpt of a finished run")
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
        The teacher, in plain formats, and the training-only weights of its checkpoint (such as a projector's) by name.

    Raises:
        UserError: the file is not a checkpoint of this project, its classes differ, or the teacher was trained on the
            student's validation or test images (a warning with ``method.teacher.allow_overlap=true``).
    """
    stored = open_checkpoint(checkpoint, setting="method.teacher.ckpt")
    card = stored["skinkd"]
    if card["classes"] != list(table.classes):
        raise UserError(
            f"method.teacher.ckpt: the teacher in {checkpoint} knows the classes {', '.join(card['classes'])}, but "
            f"the student's data has {', '.join(table.classes)}; give a teacher trained on the same classes"
        )
    _check_overlap(config, card, checkpoint, table, parts)
    network, _, training_only = rebuild(stored)
    return Teacher(network, image_size=card["backbone"]["image_size"], bf16=False), training_only


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
    """Return which images were in a part of the teacher's data, by lesion too if the student's split keeps lesions whole.

    A copy that protocol=oversampled made is the same image as its original. Images whose copies the student itself trains
    on do not count: that protocol leaks them anyway, and a teacher of the same split adds no leak.
    """
    seen = frame["image_id"].isin(card["images"][part])
    original = _originals(frame["image_id"])
    leaked = original[parts.isin(("train", part)).to_numpy()]
    seen |= original.isin(_originals(pd.Series(card["images"][part], dtype=object))) & ~original.isin(leaked)
    if config["protocol"] == "grouped":
        seen |= frame["group"].isin(card["groups"][part])
    return seen.to_numpy()


def _originals(ids: pd.Series) -> pd.Series:
    """Return the image ids without the number of a copy, ``#2`` and so on."""
    return ids.astype(str).str.replace(r"#\d+$", "", regex=True)
