"""What every file in ``conf/data``, ``conf/augment``, ``conf/backbone`` and ``conf/method`` must say, checked first."""

import difflib
from collections.abc import Mapping
from typing import Any

from skinkd.errors import UserError

Config = Mapping[str, Any]

REQUIRED = {
    "data.name": "a line name: <word>",
    "data.table": "a mapping table: with _target_: <the loader> and its arguments",
    "data.table._target_": "a line _target_: <the loader> below table:",
    "augment.train": "a list train: of transforms, each with its _target_",
    "backbone._target_": "a line _target_: <the class of the network>",
    "backbone.name": "a line name: <word>",
    "backbone.image_size": "a line image_size: ${data.image_size}",
    "backbone.weights": "a line weights: null",
    "method._target_": "a line _target_: <the class of the method>",
    "method.name": "a line name: <word>",
    "method.loss_weights": "a mapping loss_weights: {<term>: <weight>, …}",
    "method.warmup_epochs": "a line warmup_epochs: 0",
}
"""Setting -> what gives it a value in its file."""

_MAY_BE_NULL = ("backbone.weights",)


def check_required(config: Config) -> None:
    """Raise UserError for the first setting that a file lacks, or that is no text, list or mapping where it must be.

    A group that the configuration lacks is left out with all its settings.
    """
    for setting in REQUIRED:
        group, *inner = setting.split(".")
        if isinstance(config.get(group), Mapping):
            _check(config[group], group, inner, setting)
    if isinstance(config.get("augment"), Mapping):
        _check_transforms(config["augment"]["train"], "augment.train")
    for place in ("data.table", "augment.train", "backbone", "method"):
        group, *inner = place.split(".")
        if isinstance(config.get(group), Mapping):
            _check_references(config[group][inner[0]] if inner else config[group], place)


def missing_line(setting: str) -> str:
    """Return the end of a sentence on a setting without a value: what to write, and in which folder."""
    group, _, inner = setting.partition(".")
    line = REQUIRED.get(setting) or f"a line {inner.rpartition('.')[2]}: <value>"
    return f"give the file in conf/{group}/ {line}"


def _check(node: Config, group: str, inner: list[str], setting: str) -> None:
    place = ".".join([group, *inner[:-1]])
    for key in inner[:-1]:
        node = node[key]
    key = inner[-1]
    value = node.get(key)
    if value is None and not (setting in _MAY_BE_NULL and key in node):
        alike = difflib.get_close_matches(key, [name for name in node if isinstance(name, str)], n=2, cutoff=0.7)
        hint = next((f"; is {place}.{name} misspelt?" for name in alike if name != key), ";")
        raise UserError(f"{setting} has no value{hint} {missing_line(setting)}")
    word = isinstance(value, str) or (key == "name" and isinstance(value, int | float) and not isinstance(value, bool))
    if key in ("name", "_target_") and value is not None and not word:
        raise UserError(f"{setting}={value} is a {_kind(value)}, and it must be a word; {missing_line(setting)}")
    if setting in ("data.table", "method.loss_weights") and not isinstance(value, Mapping):
        raise UserError(f"{setting}={value} is a {_kind(value)}, and it must be a mapping; {missing_line(setting)}")


def _check_transforms(transforms: Any, place: str) -> None:
    if not isinstance(transforms, list):
        raise UserError(
            f"{place} is a {_kind(transforms)}, and it must be a list; begin each transform with - in the file in conf/augment/"
        )
    for number, transform in enumerate(transforms):
        if not isinstance(transform, Mapping) or not isinstance(transform.get("_target_"), str):
            raise UserError(
                f"{place}[{number}]={transform} has no _target_; write - {{_target_: <the transform>, <argument>: <value>}}"
            )
        if "transforms" in transform:
            _check_transforms(transform["transforms"], f"{place}[{number}].transforms")


def _check_references(node: Any, name: str) -> None:
    """Refuse what YAML makes of ``{data.root}``, a mapping without a value, where ``${data.root}`` was meant."""
    if isinstance(node, Mapping):
        key, value = next(iter(node.items()), (None, None))
        if len(node) == 1 and value is None and isinstance(key, str) and "." in key:
            raise UserError(f"{name}={{{key}}} is no reference to a setting; write ${{{key}}}, with a $")
        for key, value in node.items():
            _check_references(value, f"{name}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            _check_references(value, f"{name}[{number}]")


def _kind(value: Any) -> str:
    kinds = {bool: "truth value", int: "number", float: "number", str: "text", list: "list"}
    return kinds.get(type(value), "mapping")
