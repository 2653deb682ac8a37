"""Names that become folders."""

from collections.abc import Mapping
from typing import Any

from skinkd.errors import UserError

FOLDER_NAMES = ("data.name", "method.name", "group", "tune.study", "part")
"""Settings whose values become a folder, or a part of a folder's name. The ``/`` of a backbone's name is replaced there."""

LONGEST = 150
"""Bytes of one such name: a run folder's name has several of them and a hash, and disks take 255."""


def check_names(config: Mapping[str, Any]) -> None:
    """Raise UserError for a name that would lead to another folder.

    Settings that the configuration lacks are left out, with all of their group.
    """
    for setting in FOLDER_NAMES:
        value: Any = config
        for key in setting.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:
            continue
        name = str(value)
        if name in ("", ".", "..") or any(character in "/\\" or not character.isprintable() for character in name):
            raise UserError(
                f"{setting}={name!r} becomes a folder's name, so it may hold no / or \\ and be no . or ..; give another"
            )
        if len(name.encode()) > LONGEST:
            raise UserError(
                f"{setting}={name[:40]}… becomes a folder's name and has {len(name.encode())} bytes; give at most {LONGEST}"
            )
