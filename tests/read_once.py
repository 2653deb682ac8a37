"""Imported at first, so that a process and its forks do once what the tests would do a thousand times.

They read the files of ``conf/``, and which packages are installed.
"""

import importlib.metadata
import io
import pickle
from functools import cache
from typing import Any

from omegaconf import OmegaConf

_load = OmegaConf.load
_parsed: dict[str, bytes] = {}


def load(file: Any) -> Any:
    """``OmegaConf.load``, for which a text that was parsed before is not parsed again."""
    if not isinstance(file, io.TextIOBase):
        return _load(file)
    text = file.read()
    if text not in _parsed:
        file.seek(0)
        _parsed[text] = pickle.dumps(_load(file))
    return pickle.loads(_parsed[text])


OmegaConf.load = staticmethod(load)  # type: ignore[method-assign,assignment]
# each Trainer asks all installed packages for callbacks; Lightning is imported after this module
importlib.metadata.entry_points = cache(importlib.metadata.entry_points)
