"""Where a file lies relative to the folders of ``paths``, which may move between two commands."""

from collections.abc import Mapping
from typing import Any


def place_below(value: Any, paths: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the name of the folder of ``paths`` that holds ``value``, and the rest of the path; None if no folder does.

    If one folder lies inside another, the inner folder counts. The rest is "" for the folder itself, else it begins with "/".
    """
    if not isinstance(value, str):
        return None
    for name, folder in sorted(paths.items(), key=lambda item: -len(str(item[1]))):
        if value == str(folder) or value.startswith(f"{folder}/"):
            return name, value.removeprefix(str(folder))
    return None
