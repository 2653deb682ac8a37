"""Hydra parses each file of ``conf/`` once in a process: the tests compose a configuration more than a thousand times."""

import io
import pickle
from functools import cache
from typing import Any

from omegaconf import OmegaConf

_load = OmegaConf.load


@cache
def _parsed(text: str) -> bytes:
    return pickle.dumps(_load(io.StringIO(text)))


def load(file: Any) -> Any:
    """``OmegaConf.load``, for which a text that was parsed before is not parsed again."""
    return pickle.loads(_parsed(file.read())) if isinstance(file, io.TextIOBase) else _load(file)


def read_once() -> None:
    """Let this process, and the processes that are forked from it, keep what they have parsed."""
    OmegaConf.load = staticmethod(load)  # type: ignore[method-assign,assignment]
