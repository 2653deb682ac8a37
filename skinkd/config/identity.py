"""The name of a run. It follows from every setting that can change a number, and not from where data and outputs lie."""

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skinkd.config.paths import place_below
from skinkd.errors import UserError

_LONGEST = 235  # of the 255 bytes that disks take; files beside the folder add an ending to its name

NOT_IDENTITY = (
    "checkpoint",
    "config",
    "distributed",
    "force",
    "given",
    "group",
    "job_type",
    "run_dir",
    "sweep",
    "paths",
    "logger",
    "data.num_workers",
    "evaluation.test",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
)
"""Settings that change no number of a run. They do not enter the name of its folder."""

FORMATS = ("trainer.precision", "channels_last", "method.teacher.bf16", "method.teacher.channels_last")
"""The number formats and memory layouts of a run. With ``auto`` the run chooses (:mod:`skinkd.build.formats`), and its name
follows from ``auto``."""

ADDED_SETTINGS: dict[str, Any] = {
    "augment.mix": "none",
    "augment.mix_alpha": 1.0,
    "augment.mix_prob": 1.0,
    "backbone.conv_weights": None,
    "data.augment_on": "cpu",
    "data.max_pixels": 100_000_000,
    "data.missing_labels": "error",
    "data.table.missing_labels": "error",
    "loss.label_smoothing": 0.0,
    "method.centre_logits": False,
    "method.logit_standardization": False,
    "method.teacher.channels_last": False,
}
"""Settings added after the first release: dotted name -> the value with which a run gives the same numbers as before.

A setting with this value does not enter the identity, so that earlier runs keep their folders. A mapping that holds only
such settings does not enter it either. The same holds for these settings in the recipe of a teacher."""


def identity(config: dict[str, Any]) -> str:
    """Return a hash, eight hexadecimal digits, of every setting of the resolved configuration that can change a number.

    A path below a folder of ``paths`` counts relative to that folder, so that data and outputs may move. Any other path
    counts as it is. A value that the run derived from other settings counts as the command gave it (``given``).
    """
    config = as_given(config)
    text = json.dumps(_identity(config, "", config["paths"]), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def as_given(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration that the command gave: values of ``given`` (dotted names) replace those derived by the run."""
    return _with(config, config.get("given") or {})


def with_derived(config: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with values that the run derived, by dotted name; ``given`` then holds the command's values.

    The folder's name follows from the command's values, so the run keeps its folder.
    """
    if not values:
        return config
    given = {name: get_setting(config, name) for name in values}
    return _with(config, values) | {"given": given | (config.get("given") or {})}


def get_setting(config: Mapping[str, Any], name: str) -> Any:
    """Return a setting by its dotted name; None if the configuration lacks it."""
    node: Any = config
    for key in name.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _with(config: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(config) if values else config
    for name, value in values.items():
        *groups, key = name.split(".")
        node = config
        for group in groups:
            node = node[group]
        node[key] = value
    return config


def _identity(node: Any, name: str, paths: Mapping[str, Any]) -> Any:
    if isinstance(node, dict):
        full = {key: (f"{name}.{key}" if name else key) for key in node}
        kept = {
            key: value
            for key, value in node.items()
            if full[key] not in NOT_IDENTITY and not holds_added_defaults(value, full[key])
        }
        return {key: _identity(value, full[key], paths) for key, value in kept.items()}
    if isinstance(node, list):
        return [_identity(value, name, paths) for value in node]
    place = place_below(node, paths)
    return node if place is None else f"<{place[0]}>{place[1]}"


def holds_added_defaults(value: Any, name: str) -> bool:
    """Return whether a setting has its value in ADDED_SETTINGS, or is a mapping of such settings only."""
    own_name = name.rpartition("method.teacher.run.")[2]
    if own_name in ADDED_SETTINGS:
        default = ADDED_SETTINGS[own_name]
        # True == 1 in Python, but as settings they differ
        return value == default and isinstance(value, bool) == isinstance(default, bool)
    return (
        isinstance(value, dict)
        and bool(value)
        and all(holds_added_defaults(inner, f"{name}.{key}") for key, inner in value.items())
    )


def run_path(config: dict[str, Any]) -> Path:
    """Return ``run_dir`` if it is set, else ``<output_dir>/<method>-<data>-<backbone>-seed<seed>-<identity>``."""
    if config["run_dir"]:
        return Path(config["run_dir"])
    parts = [
        config["method"]["name"],
        config["data"]["name"],
        config["backbone"]["name"],
        f"seed{config['seed']}",
    ]
    if config["data"]["fold"] is not None:
        parts.append(f"fold{config['data']['fold']}")
    name = "-".join([*(str(part).replace("/", "_") for part in parts), identity(config)])
    if len(name.encode()) > _LONGEST:
        raise UserError(
            f"the run folder's name {name[:40]}… has {len(name.encode())} bytes, more than a disk takes; shorten data.name, "
            "or give run_dir=<folder>"
        )
    return Path(config["paths"]["output_dir"]) / name
