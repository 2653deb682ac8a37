"""The files of checkpoints: written in one step, the last two kept, and each checked before it is read."""

import math
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinkd.errors import UserError
from skinkd.runs.console import is_main_process, say
from skinkd.runs.files import written_atomically

if TYPE_CHECKING:
    import pandas as pd

BEST, LAST, BEFORE = "best.ckpt", "last.ckpt", "last_before.ckpt"


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint, and wait until it is on the disk. An earlier ``last.ckpt`` becomes ``last_before.ckpt``.

    Raises:
        OSError: the file cannot be written; ``filename`` is set, and the earlier checkpoints are unchanged.
    """
    import torch  # slow to import, and not needed to find a checkpoint

    with written_atomically(path) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # so torch.save tells of a full disk
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        if path.name == LAST and path.exists():
            os.replace(path, path.with_name(BEFORE))


def damage(path: Path) -> str | None:
    """Return what is wrong with the file of a checkpoint; None if it is whole.

    A checkpoint is a zip archive, which holds a CRC-32 of each part. The parts are read and compared with it: torch.load
    does not do so, and would give changed weights without a word.

    Raises:
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        if not file.read(1):
            return "it is empty"
        try:
            with zipfile.ZipFile(file) as archive:
                changed = archive.testzip()
        except Exception as error:  # the reader of archives raises many kinds of errors for damaged ones
            return f"it is cut off, or never was a checkpoint ({type(error).__name__})"
    if changed:
        return f"its part {changed} has changed since it was written"
    try:
        _load(path)
    except Exception as error:  # so does torch.load
        return f"it holds no plain values ({type(error).__name__})"
    return None


def mend_best(folder: Path, *, metric: str, mode: str) -> None:
    """Write a damaged or missing ``best.ckpt`` anew from a kept checkpoint, if that is of the best epoch.

    Args:
        folder: of the checkpoints.
        metric: column of the history that chooses the best epoch.
        mode: "min" | "max".

    Raises:
        UserError: no kept checkpoint is of the best epoch.
    """
    path, newest = folder / BEST, find_last(folder)
    reason = damage(path) if path.exists() else "it is missing"
    if reason is None or newest is None:
        return
    history = _load(newest)["callbacks"]["History"]["rows"]
    if not history:  # the first epoch is not complete
        return
    signed = [float(row.get(metric, math.nan)) * (1 if mode == "max" else -1) for row in history]
    scores = [float("-inf") if math.isnan(score) else score for score in signed]
    best = scores.index(max(scores)) + 1
    for kept in (folder / LAST, folder / BEFORE):
        if kept.exists() and damage(kept) is None:
            stored = _load(kept)
            if len(stored["callbacks"]["History"]["rows"]) == stored["epoch"] + 1 == best:
                say(
                    f"warning: {path} is damaged ({reason}); it is written again from {kept.name}, of the same epoch {best}"
                )
                write_checkpoint(stored, path)
                return
    raise UserError(
        f"{path} is damaged ({reason}), and no other checkpoint is of the best epoch, {best}; begin again with force=true"
    )


def _load(path: Path) -> dict[str, Any]:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # weights are read when they are used


def find_last(folder: Path) -> Path | None:
    """Return the newest whole checkpoint to go on from; None if a run has not saved any.

    ``best.ckpt`` is the last resort: it holds the whole state of training at the end of its epoch. A damaged ``last.ckpt`` is
    named and put aside as ``last.ckpt.damaged``, so that it never replaces the checkpoint before it.

    Raises:
        UserError: there are checkpoints, and all of them are damaged.
    """
    damaged: dict[Path, str] = {}
    for path in (folder / LAST, folder / BEFORE, folder / BEST):
        if not path.exists():
            continue
        reason = damage(path)
        if reason is None:
            for bad, why in damaged.items():
                say(f"warning: {bad} is damaged ({why}); going on from the earlier {path.name}")
                if is_main_process():
                    os.replace(bad, bad.with_name(f"{bad.name}.damaged"))
            return path
        damaged[path] = reason
    if damaged:
        listed = ", ".join(f"{path} ({reason})" for path, reason in damaged.items())
        raise UserError(f"every checkpoint to go on from is damaged: {listed}; begin again with force=true")
    return None


def trained_on(folder: Path, splits: "pd.DataFrame") -> bool:
    """Return whether the checkpoints are of this split's training and validation images; True if there is no checkpoint.

    Args:
        folder: of the checkpoints.
        splits: columns image_id and split.
    """
    path = find_last(folder)
    if path is None:
        return True
    seen = _load(path)["skinkd"]["images"]
    parts = {part: splits["image_id"][splits["split"] == part].tolist() for part in ("train", "val")}
    return all(seen[part][: len(names)] == names for part, names in parts.items())
