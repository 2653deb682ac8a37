"""The name of a run: which settings make two runs the same run, wherever its data and outputs lie."""

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skinkd.config.paths import place_below

NOT_IDENTITY = (
    "config",
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
"""Settings that change no number of a run, and so not its folder."""

ADDED_SETTINGS: dict[str, Any] = {
    "augment.mix": "none",
    "augment.mix_alpha": 1.0,
    "augment.mix_prob": 1.0,
    "backbone.conv_weights": None,
    "data.augment_on": "cpu",
    "data.max_pixels": 100_000_000,
    "loss.label_smoothing": 0.0,
}
"""Settings that came after the first release: dotted name -> the value at which a run is what it was without the setting,
in the recipe of its teacher too.
At that value the setting does not enter the identity, so that earlier runs keep their folders. Nor does a mapping that
holds nothing else."""


def identity(config: dict[str, Any]) -> str:
    """Eight hexadecimal digits of everything in the resolved configuration that can change a number.

    A file or folder below one of ``paths`` counts by its place below it, so that data and outputs may move; one given
    anywhere else counts as it is. A value that the run derived from others counts as the command gave it (``given``).
    """
    config = _as_given(config)
    text = json.dumps(_identity(config, "", config["paths"]), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _as_given(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the command, from that of its run: the values of ``given``, by dotted name, in their places."""
    given = config.get("given") or {}
    config = copy.deepcopy(config) if given else config
    for name, value in given.items():
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
    """Whether a setting came later and has the value at which it changes nothing, or is a mapping of such settings."""
    own_name = name.rpartition("method.teacher.run.")[2]
    if own_name in ADDED_SETTINGS:
        default = ADDED_SETTINGS[own_name]
        # True == 1 in Python, and they are different settings
        return value == default and isinstance(value, bool) == isinstance(default, bool)
    return (
        isinstance(value, dict)
        and bool(value)
        and all(holds_added_defaults(inner, f"{name}.{key}") for key, inner in value.items())
    )


def run_path(config: dict[str, Any]) -> Path:
    """``run_dir`` if it is set, else ``<output_dir>/<method>-<data>-<backbone>-seed<seed>-<identity>``."""
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
    return Path(config["paths"]["output_dir"]) / name
