"""The one place where a configuration's ``_target_`` becomes an object."""

import difflib
import logging
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from skinkd.build.annotations import check_arguments
from skinkd.config.targets import check_targets, package_of
from skinkd.errors import UserError

logging.getLogger("hydra.utils").disabled = True  # it would print the error of get_object, which a sentence tells

_OF_LIBRARIES = ("augment.train", "optim.optimizer", "optim.schedule")
"""Settings whose arguments a library checks, in errors of its own."""


def build(tree: Any, *positional: Any, place: str, **arguments: Any) -> Any:
    """Build what a setting describes, after all of it has been checked.

    Args:
        tree: the setting's plain values.
        positional: further arguments of the constructor.
        place: the setting, a key of :data:`skinkd.config.targets.ALLOWED`.
        arguments: further arguments of the constructor by name.

    Raises:
        UserError: a ``_target_`` that is not allowed or cannot be imported, an argument that is missing, unknown, or refused.
        Exception: whatever else the constructor raises.
    """
    check_targets(tree, place=place)
    check_targets(arguments, place=place)
    for name, node in _targets(tree, place):
        check_arguments(node, _check_definition(node["_target_"], place), name=name)
    try:
        return instantiate(tree, *positional, _convert_="all", **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if cause is None:
            raise
        if place in _OF_LIBRARIES and isinstance(cause, TypeError | ValueError):
            reason = " ".join(str(cause).split())
            remedy = "give the argument" if " missing " in reason else "correct the argument, or leave it out"
            raise UserError(f"{place} cannot be built: {reason[:300]}; {remedy}") from error
        if isinstance(cause, TypeError) and (wrong := _ARGUMENT.search(str(cause))):
            raise UserError(_wrong_argument(wrong, tree, place, given=arguments)) from error
        if place == "method" and (said := _misuse(cause, tree["_target_"])):
            raise UserError(said) from error
        raise cause from cause.__cause__  # its traceback has the file and the line


_ARGUMENT = re.compile(r"([\w.]+)\(\) (missing \d+ required .*arguments?: |got an unexpected keyword argument )'(\w+)'")


def _wrong_argument(wrong: re.Match[str], tree: Any, place: str, given: Mapping[str, Any]) -> str:
    """Return the sentence on an argument that is missing or unknown: the keys of a setting are its constructor's arguments."""
    what, fault, name = wrong.groups()
    if fault.startswith("missing"):
        if name in given:
            return (
                f"{tree['_target_']} is given {name} and does not hand it on to {what}; let its __init__ take **protocol, and "
                "call super().__init__(network, **protocol)"
            )
        if name == "image_labels":
            return f"{tree['_target_']} takes image_labels and does not say so; set keeps_memory = True in the class"
        alike = difflib.get_close_matches(name, [key for key in tree if not key.startswith("_")], n=1, cutoff=0.7)
        hint = f"; is {place}.{alike[0]} misspelt?" if alike else ""
        return (
            f"{place}.{name} has no value, and {what} of {tree['_target_']} needs one{hint}; give {place}.{name} in its YAML "
            "file"
        )
    return f"{place}.{name} is not an argument of {what} of {tree['_target_']}; correct its name, or leave it out"


def _misuse(error: BaseException, target: str) -> str | None:
    """Return the sentence on a method that breaks the contract of ``Method.__init__``, or None."""
    text = str(error)
    if isinstance(error, TypeError) and re.search(r"__init__\(\) takes \d+ positional argument", text):
        return f"{target}.__init__ takes no network; begin it with def __init__(self, network, *, …, **protocol)"
    if isinstance(error, AttributeError) and "before Module.__init__() call" in text:
        return f"{target}.__init__ registers a module too early; call super().__init__(network, **protocol) first"
    absent = re.fullmatch(r"'(\w+)' object has no attribute '(num_classes|feature_dim|stage_shapes)'", text)
    if isinstance(error, AttributeError) and absent:
        return f"the network {absent[1]} has no {absent[2]}, which {target} reads; set {absent[2]} in the network's __init__"
    return None


def find_class(target: str, *, place: str) -> Any:
    """Return the class that a setting names, after the same check."""
    check_targets({"_target_": target}, place=place)
    return _check_definition(target, place)


def _targets(tree: Any, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with a ``_target_``, and its dotted name."""
    if isinstance(tree, Mapping):
        if "_target_" in tree:
            yield name, tree
        for key, value in tree.items():
            yield from _targets(value, f"{name}.{key}")
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from _targets(value, f"{name}[{number}]")


def _check_definition(target: str, place: str) -> Any:
    """Return what a name stands for.

    Raises:
        UserError: it cannot be imported, or another package defines it, such as ``mine.module.os.system``.
    """
    package = package_of(target, place)
    module, _, name = target.rpartition(".")
    try:
        found = get_object(target)
    except Exception as error:
        reason = _reason(error)
        if module in sys.modules:  # a module that fails is not there
            alike = difflib.get_close_matches(name, vars(sys.modules[module]), n=1)
            reason = f"the module {module} has no {name}" + (f"; did you mean {module}.{alike[0]}?" if alike else "")
        raise UserError(f"{place}._target_={target} cannot be imported: {reason}") from error
    if isinstance(found, ModuleType):
        raise UserError(f"{place}._target_={target} is refused: it is a module; name a class or function of it")
    defined = getattr(found, "__module__", None) or ""
    if not f"{defined}.".startswith(f"{package}."):
        raise UserError(
            f"{place}: _target_={target} is refused: {defined or 'nobody'} defines it and not {package}; name a class or "
            f"function of {package}"
        )
    return found


def _reason(error: BaseException) -> str:
    """Return the first of a chain of errors in words, with the file and the line that it comes from."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, SyntaxError):
        return f"{error.msg} in {error.filename}, line {error.lineno}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    words = f"{type(error).__name__}: {' '.join(str(error).split())}"
    ours = not any(name in frame.filename for name in ("importlib", "hydra"))
    return f"{words} in {frame.filename}, line {frame.lineno}" if ours else words
