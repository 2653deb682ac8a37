"""Where a configuration that somebody else may have stored can make a run write: below the folders of the command alone."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skinkd.config.paths import place_below
from skinkd.errors import UserError

Config = dict[str, Any]

WRITTEN = ("memory", "unpacked")
"""Arguments of a dataset's loader, in ``data.table``, that name a folder to write to."""


def below_the_commands(config: Config, own: Mapping[str, Any], *, file: Path) -> Config:
    """Return a stored configuration with its folders replaced by those of the command.

    A path below a stored folder moves with it. Two things stay as they are stored: the folder of data, which is only read,
    and the folder of a run whose configuration lies in it, so that the run goes on there.

    Args:
        config: what the file stores.
        own: ``paths`` of the command.
        file: the stored configuration.

    Raises:
        UserError: the file lacks its folders, or names a folder to write to that is not below them.
    """
    stored = config.get("paths")
    if not isinstance(stored, Mapping) or not all(isinstance(stored.get(name), str) for name in own):
        raise UserError(f"{file} has no paths; give the config.yaml of a run folder")
    paths = dict(own)
    home = file.resolve().parent
    tail = Path(stored["output_dir"]).parts
    if _same(stored["output_dir"], home.parent):
        paths["output_dir"] = stored["output_dir"]
        if place_below(stored["cache_dir"], {"output_dir": stored["output_dir"]}) is not None:
            paths["cache_dir"] = stored["cache_dir"]
    elif tail and not os.path.isabs(stored["output_dir"]) and home.parent.parts[-len(tail) :] == tail:
        paths["output_dir"] = str(home.parent)  # a relative folder, seen from another working directory
    if os.path.isdir(stored["data_dir"]):
        paths["data_dir"] = stored["data_dir"]
    run_dir = config.get("run_dir")
    moved: Config = _moved(config, stored, paths)
    moved["run_dir"] = run_dir if isinstance(run_dir, str) and _same(run_dir, home) else None
    moved["paths"] = paths
    _check_written(moved, paths, file)
    return moved


def _same(path: str, folder: Path) -> bool:
    return os.path.realpath(os.path.expanduser(path)) == str(folder)


def _moved(node: Any, old: Mapping[str, Any], new: Mapping[str, Any]) -> Any:
    if isinstance(node, dict):
        return {name: _moved(value, old, new) for name, value in node.items()}
    if isinstance(node, list):
        return [_moved(value, old, new) for value in node]
    place = place_below(node, {name: path for name, path in old.items() if name in new})
    return node if place is None else f"{new[place[0]]}{place[1]}"


def _check_written(node: Any, paths: Mapping[str, Any], file: Path, name: str = "") -> None:
    """Refuse a folder to write to that lies elsewhere, in the configuration and in the recipes of its teachers."""
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        full = f"{name}.{key}" if name else str(key)
        if name.endswith("data.table") and key in WRITTEN and not inside(value, paths):
            raise UserError(
                f"{file}: {full}={value} is a folder outside paths.output_dir and paths.cache_dir, where a stored one may "
                "not write; give the command of the run instead"
            )
        _check_written(value, paths, file, full)


def inside(path: Any, paths: Mapping[str, Any]) -> bool:
    """Return whether a path is below the folder of outputs or of the cache, also where it has ``..`` or a link in it."""
    real = os.path.realpath(str(path))
    roots = [os.path.realpath(str(paths[name])) for name in ("output_dir", "cache_dir")]
    return any(real == root or real.startswith(f"{root}/") for root in roots)
