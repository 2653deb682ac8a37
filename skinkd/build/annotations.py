"""A check that the values of a YAML file are of the kinds that the constructor's annotations name."""

import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from skinkd.errors import UserError

_LIBRARIES = ("albumentations", "torch")  # they check their arguments themselves


def check_arguments(node: Mapping[str, Any], target: Callable[..., Any], *, name: str) -> None:
    """Raise UserError for the first value that is of another kind than the annotation of its argument.

    A class that hands ``**keywords`` on is followed to its base classes. What has no annotation, or an annotation that is
    no kind of YAML, may have any value.

    Args:
        node: the arguments by name, as YAML gives them.
        target: the class or function that takes them.
        name: the setting that holds them, for the message.
    """
    if str(getattr(target, "__module__", "")).split(".")[0] in _LIBRARIES:
        return
    annotated = _annotations(target)
    for key, value in node.items():
        if key in annotated and not fits(value, annotated[key]):
            shown = inspect.formatannotation(annotated[key]).replace("collections.abc.", "")
            raise UserError(
                f"{name}.{key}={str(value)[:80]} is of the wrong kind: {target.__module__}.{target.__qualname__} takes {key}: "
                f"{shown}; correct the value in its YAML file"
            )


def _annotations(target: Callable[..., Any]) -> dict[str, Any]:
    """Return argument -> annotation, of the nearest class that names the argument."""
    found: dict[str, Any] = {}
    functions = [vars(base).get("__init__") for base in target.__mro__] if isinstance(target, type) else [target]
    for function in functions:
        if not isinstance(function, types.FunctionType) or function.__module__.split(".")[0] in _LIBRARIES:
            continue
        try:
            found = typing.get_type_hints(function) | found
        except Exception:  # an annotation that names what is not there
            continue
        if not any(one.kind is one.VAR_KEYWORD for one in inspect.signature(function).parameters.values()):
            break
    return found


def fits(value: Any, annotation: Any) -> bool:
    """Return whether a value of YAML is of the kind of an annotation; True for what YAML has no kind of."""
    origin, inner = get_origin(annotation) or annotation, get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    if origin in (None, types.NoneType):
        return value is None
    if origin in (bool, int, float):
        allowed = {bool: bool, int: int, float: int | float}[origin]
        return isinstance(value, allowed) and isinstance(value, bool) == (origin is bool)
    if origin in (str, Path):
        return isinstance(value, str)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and (len(inner) != 2 or all(fits(one, inner[1]) for one in value.values()))
    if origin in (list, tuple, Sequence, Iterable, Collection):
        same = len(inner) == 1 or inner[1:] == (...,)
        return isinstance(value, list | tuple) and (not same or all(fits(one, inner[0]) for one in value))
    return True
