"""Reads the checkpoint of a run: its network, its card, and the weights that only training needs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skinkd.build.construct import build
from skinkd.errors import UserError
from skinkd.models.backbone import Backbone
from skinkd.runs.checkpoints import damage


class Stored(NamedTuple):
    """The parts of a checkpoint that are used after training.

    Attributes:
        network: the deployed network with its trained weights.
        card: ``classes``, ``backbone`` (its arguments), ``images`` and ``groups`` of the parts ``train`` and ``val``.
        training_only: weights by name that the network does not have, such as a projector's.
    """

    network: Backbone
    card: dict[str, Any]
    training_only: dict[str, Tensor]


def find_checkpoint(given: str, *, setting: str) -> Path:
    """Return the best checkpoint of a run folder, or the given file.

    Args:
        given: a run folder or a checkpoint.
        setting: the key that gave it, for the error.

    Raises:
        UserError: there is no such checkpoint.
    """
    path = Path(given).expanduser()
    checkpoint = path / "checkpoints" / "best.ckpt" if path.is_dir() else path
    if not checkpoint.is_file():
        raise UserError(
            f"{setting}={given} is neither a run folder with checkpoints/best.ckpt nor a checkpoint; give one of these"
        )
    return checkpoint


def open_checkpoint(path: Path, *, setting: str) -> dict[str, Any]:
    """Read a checkpoint's plain values; its card is under ``skinkd``.

    Raises:
        UserError: the file is not a checkpoint of this project.
    """
    reason = damage(path)
    if reason:
        raise UserError(f"{setting}: {path} cannot be read as a checkpoint: {reason}; give another")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle and zip raise many kinds of errors for other files
        raise UserError(
            f"{setting}: {path} cannot be read as a checkpoint ({type(error).__name__}); give another"
        ) from error
    if not (isinstance(stored, dict) and stored.get("skinkd")):
        raise UserError(f"{setting}: {path} is not a checkpoint of this project; train with python -m skinkd.train")
    state = stored.get("state_dict")
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        raise UserError(f"{setting}: the weights in {path} are not tensors; give another checkpoint")
    return stored


def read_cards(files: Iterable[str | Path | None]) -> list[dict[str, Any]]:
    """Return the cards of the files that are checkpoints of this project. Files of any other origin have no card."""
    cards = []
    for file in files:
        try:
            stored = torch.load(file, map_location="cpu", weights_only=True, mmap=True) if file else None
        except Exception:  # not a checkpoint; the code that loads its weights reports that
            continue
        if isinstance(stored, dict) and stored.get("skinkd"):
            cards.append(stored["skinkd"])
    return cards


def rebuild(stored: dict[str, Any]) -> Stored:
    """Build the network of an opened checkpoint, in eval mode, and load its weights."""
    card, state, prefix = stored["skinkd"], stored["state_dict"], "network."
    network = untrained(card)
    network.load_state_dict({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
    return Stored(network.eval(), card, {name: state[name] for name in state if not name.startswith(prefix)})


def untrained(card: dict[str, Any]) -> Backbone:
    """Build the network that a card describes, with random weights, from no file."""
    started_from = {name: None for name in ("weights", "conv_weights") if name in card["backbone"]}
    arguments = {**card["backbone"], "pretrained": False, **started_from}
    return build(arguments, place="backbone", num_classes=len(card["classes"]))
