"""Weights files of all kinds: what is in a file, which part of it is the network, and whether it fits."""

import argparse
import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from skinkd.errors import UserError

log = logging.getLogger(__name__)

_INSIDE = (
    *("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model_state", "model"),
    *("net", "network", "backbone", "params", "weights"),
)
"""Where programs keep the weights in a checkpoint; the averaged ones, and then timm's own names, come first."""

_KINDS = (
    (b"version https://git-lfs", "only a pointer of Git LFS", "fetch the file with git lfs pull"),
    (b"<", "a web page", "download the file itself"),
    (b"\x89HDF", "a file of Keras", "give one of PyTorch"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it"),
)
_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.")  # torchvision's old names
_SAVE = "save torch.save(model.state_dict(), …) where it was trained, and give that file"


def read_state(file: str) -> dict[str, Tensor]:
    """Read the weights in a file (.pth, .ckpt, .safetensors, …), or of a run folder's best checkpoint, to the CPU.

    The content says what a file is, not its ending. Only tensors and plain values are unpickled.

    Raises:
        UserError: no such file, or no weights in it.
    """
    path = Path(file).expanduser()
    path = path / "checkpoints" / "best.ckpt" if (path / "checkpoints" / "best.ckpt").is_file() else path
    if path.is_dir():
        raise UserError(
            f"backbone.weights={file} does not exist as a file; it is a folder without checkpoints/best.ckpt; give a file"
        )
    if not path.is_file():
        raise UserError(f"backbone.weights={file} does not exist; give the path of a weights file, or null for none")
    stored = _read(path, file)
    found = _weights_in(stored)
    if found is None:
        holds = (
            f"a {type(stored).__name__}" if not isinstance(stored, Mapping) else ", ".join(map(str, list(stored)[:6]))
        )
        raise UserError(f"backbone.weights={file} holds no state dict but {holds or 'nothing'}; {_SAVE}")
    return found


def _read(path: Path, file: str) -> Any:
    with path.open("rb") as opened:
        head = opened.read(64)
    if not head:
        raise UserError(f"backbone.weights={file} is empty; download it again")
    for start, kind, remedy in _KINDS:
        if head.lstrip().startswith(start):
            raise UserError(f"backbone.weights={file} is {kind}; {remedy}")
    try:
        if head[8:9] == b"{":  # safetensors: eight bytes of length, then JSON
            return load_safetensors(path.read_bytes())
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm's own training script saves its arguments
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling, zip and safetensors errors share no class
        _, _, named = re.sub(r"GLOBAL |Unsupported globals?:", "\0", str(error), count=1).partition("\0")
        objects = ", ".join(re.findall(r"\b(?:\w+\.)+\w+", re.split(r" was not |\. |\n", named)[0])[:6])
        if "torch.nn." in objects or "timm." in objects or "torchvision." in objects:
            raise UserError(
                f"backbone.weights={file} holds a whole pickled network, which would run code of its own; {_SAVE}"
            ) from error
        if objects:
            raise UserError(
                f"backbone.weights={file} cannot be read as a state dict: it holds objects besides weights "
                f"({objects[:100]}), which could run code; {_SAVE}"
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"backbone.weights={file} cannot be read as a state dict ({reason[:160]}); give a file of PyTorch or safetensors"
        ) from error


def _weights_in(stored: Any) -> dict[str, Tensor] | None:
    """Return the tensors by name, wherever they are in a checkpoint; None if there are none."""
    if not isinstance(stored, Mapping):
        return None
    for key in _INSIDE:
        inner = stored.get(key)
        if isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values()):
            stored = inner
            break
    tensors = {str(key): value for key, value in stored.items() if isinstance(value, Tensor)}
    return tensors or None


def _aligned(state: dict[str, Tensor], own: Iterable[str], *, file: str) -> dict[str, Tensor]:
    """Return the weights under the names of the network: without a wrapper's ``module.``, ``net.`` or ``_orig_mod.``, …

    The prefix is taken off with which the most names fit. Weights outside it serve training only, such as a loss's.

    Raises:
        UserError: two parts of the file fit equally well, such as a student and a teacher.
    """
    names = set(own)
    inner = {name.removeprefix("model.") for name in names if name.startswith("model.")}
    begin = Counter(".".join(parts[:depth]) + "." for parts in (key.split(".") for key in state) for depth in (1, 2, 3))
    fits: dict[tuple[str, str], int] = {}
    for prefix in ("", *(prefix for prefix, count in begin.items() if 3 * count >= len(state))):
        cut = [key[len(prefix) :] for key in state if key.startswith(prefix)]
        fits[prefix, ""] = sum(key in names for key in cut)
        fits[prefix, "model."] = sum(key in inner for key in cut)
    most = max(fits.values())
    best = [choice for choice, count in fits.items() if count == most]
    prefix, put = best[0]
    others = [other for other, where in best if where == put and other and not other.startswith(prefix)]
    if most and prefix and others:
        raise UserError(
            f"backbone.weights={file} holds several networks ({', '.join([prefix, *others])}); save the state dict of one alone"
        )
    if not most:
        prefix, put = "", "" if any(key.startswith("model.") for key in state) or not inner else "model."
    return {put + key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def fit_state(network: nn.Module, state: dict[str, Tensor], *, file: str, free: Iterable[str]) -> None:
    """Load ``state`` into ``network``. Parameters under a ``free`` prefix need not fit.

    Those that do not fit keep their values, and the log says so. If others do not fit, timm's conversion for the
    architecture is tried (other namings, position embeddings of another image size).

    Raises:
        UserError: missing or unexpected keys or other shapes outside ``free``, a few of them named.
    """
    free = tuple(free)
    own = network.state_dict()
    state = _aligned(state, own, file=file)
    if _misfits(own, state, free):
        state = _converted(network, state)
    misfits = _misfits(own, state, free)
    if misfits:
        some = ", ".join(misfits[:4]) + (f" and {len(misfits) - 4} more" if len(misfits) > 4 else "")
        name = getattr(network, "name", type(network).__name__)
        raise UserError(f"backbone.weights={file} does not fit {name}: {some}; give weights of this network")
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    kept = [key for key in own if key.startswith(free) and key not in fitting]
    if kept:
        # of a head that fits in part no layer is taken, or it would mix the file's layers with random ones
        prefixes = {next(prefix for prefix in free if key.startswith(prefix)) for key in kept}
        fitting = {key: value for key, value in fitting.items() if not key.startswith(tuple(prefixes))}
        log.warning("%s does not fit %s, which stay at their random start", file, ", ".join(sorted(prefixes)))
    network.load_state_dict(fitting, strict=False)


def _misfits(own: dict[str, Tensor], state: dict[str, Tensor], free: tuple[str, ...]) -> list[str]:
    # files older than BatchNorm's step counter are whole without it
    needed = {key for key in own if not key.startswith(free) and not key.endswith("num_batches_tracked")}
    given = {key for key in state if not key.startswith(free)}
    missing = [f"no {key}" for key in sorted(needed - given)]
    unexpected = [f"unexpected {key}" for key in sorted(given - own.keys())]
    shapes = [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(given & own.keys())
        if state[key].shape != own[key].shape
    ]
    # one of each kind comes first, so that a shortened list still shows every kind
    kinds = [kind for kind in (missing, unexpected, shapes) if kind]
    return [kind[0] for kind in kinds] + [entry for kind in kinds for entry in kind[1:]]


def _converted(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    model = getattr(network, "model", network)
    state = {_DENSENET.sub(r"\1\2.", key): value for key, value in state.items()}
    convert: Callable[..., dict[str, Tensor]] | None = getattr(
        sys.modules[type(model).__module__], "checkpoint_filter_fn", None
    )
    if convert is None:
        return state
    inner = {key[len("model.") :]: value for key, value in state.items() if key.startswith("model.")}
    outer = {key: value for key, value in state.items() if not key.startswith("model.")}
    try:
        inner = convert(inner, model)
    except Exception:  # a file of another network: the comparison says what is wrong
        return state
    return outer | {f"model.{key}": value for key, value in inner.items()}
