"""The one place where a configuration's ``_target_`` becomes an object."""

from collections.abc import Iterator, Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from skinkd.config.targets import check_targets, package_of
from skinkd.errors import UserError

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
        UserError: a ``_target_`` that is not allowed, or an argument that a library refuses.
        hydra.errors.InstantiationException: the constructor refuses its arguments.
    """
    check_targets(tree, place=place)
    check_targets(arguments, place=place)
    for target in _targets(tree):
        _check_definition(target, place)
    try:
        return instantiate(tree, *positional, _convert_="all", **arguments)
    except InstantiationException as error:
        if place in _OF_LIBRARIES and isinstance(error.__cause__, TypeError | ValueError):
            reason = " ".join(str(error.__cause__).split())
            raise UserError(
                f"{place} cannot be built: {reason[:300]}; correct the argument, or leave it out"
            ) from error
        raise


def find_class(target: str, *, place: str) -> Any:
    """Return the class that a setting names, after the same check."""
    check_targets({"_target_": target}, place=place)
    _check_definition(target, place)
    return get_object(target)


def _targets(tree: Any) -> Iterator[str]:
    if isinstance(tree, Mapping):
        if "_target_" in tree:
            yield tree["_target_"]
        for value in tree.values():
            yield from _targets(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _targets(value)


def _check_definition(target: str, place: str) -> None:
    """Refuse a name in an allowed package for something that another package defines, such as ``mine.module.os.system``."""
    package = package_of(target, place)
    try:
        defined = getattr(get_object(target), "__module__", None) or ""
    except Exception:  # whoever builds it is told why
        return
    if not f"{defined}.".startswith(f"{package}."):
        raise UserError(
            f"{place}: _target_={target} is refused: {defined or 'nobody'} defines it and not {package}; name a class or "
            f"function of {package}"
        )
