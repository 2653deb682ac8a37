"""Reading a run's checkpoint again: its network, its card, and the weights that are not the network's."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skinkd.build.construct import build
from skinkd.errors import UserError
from skinkd.models.backbone import Backbone


class Stored(NamedTuple):
    """What a checkpoint holds for use after training.

    Attributes:
        network: the deployed network with its trained weights.
        card: ``classes``, ``backbone`` (its arguments), ``images`` and ``groups`` of the parts ``train`` and ``val``.
        others: training-only weights by name, such as a projector's.
    """

    network: Backbone
    card: dict[str, Any]
    others: dict[str, Tensor]


def find_checkpoint(given: str, *, setting: str) -> Path:
    """The best checkpoint of a run folder, or the checkpoint given; ``setting`` is the key that gave it, for the error."""
    path = Path(given).expanduser()
    checkpoint = path / "checkpoints" / "best.ckpt" if path.is_dir() else path
    if not checkpoint.is_file():
        raise UserError(
            f"{setting}={given} is neither a run folder with checkpoints/best.ckpt nor a checkpoint; give one"
        )
    return checkpoint


def open_checkpoint(path: Path, *, setting: str) -> dict[str, Any]:
    """Read a checkpoint's plain values; its card is under ``skinkd``.

    Raises:
        UserError: the file is no checkpoint of this project.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever pickle or zip make of a file that is none
        raise UserError(
            f"{setting}: {path} cannot be read as a checkpoint ({type(error).__name__}); give another"
        ) from error
    if not (isinstance(stored, dict) and stored.get("skinkd")):
        raise UserError(f"{setting}: {path} is no checkpoint of this project; train with python -m skinkd.train")
    state = stored.get("state_dict")
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        raise UserError(f"{setting}: {path} has weights that are no tensors; give another")
    return stored


def read_cards(files: Iterable[str | Path | None]) -> list[dict[str, Any]]:
    """The cards of those files that are checkpoints of this project; weights of another origin have none."""
    cards = []
    for file in files:
        try:
            stored = torch.load(file, map_location="cpu", weights_only=True, mmap=True) if file else None
        except Exception:  # no checkpoint of ours; what it is, whoever loads its weights says
            continue
        if isinstance(stored, dict) and stored.get("skinkd"):
            cards.append(stored["skinkd"])
    return cards


def rebuild(stored: dict[str, Any]) -> Stored:
    """Build the network of an opened checkpoint, in eval mode, and load its weights."""
    card, state, prefix = stored["skinkd"], stored["state_dict"], "network."
    started_from = {name: None for name in ("weights", "conv_weights") if name in card["backbone"]}
    arguments = {**card["backbone"], "pretrained": False, **started_from}
    network = build(arguments, place="backbone", num_classes=len(card["classes"]))
    network.load_state_dict({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
    return Stored(network.eval(), card, {name: state[name] for name in state if not name.startswith(prefix)})
