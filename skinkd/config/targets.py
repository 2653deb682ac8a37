"""Which constructors a configuration may name as ``_target_``; a name outside the list is refused before anything is built.

A checkpoint's card and a run's config.yaml come from whoever sends them, and Hydra calls whatever they name. So each setting
that is built has a list of its own. A package of the user's own is added with ``allow_targets=<package>`` on the command
line. The word goes to the environment, and so reaches teachers, the jobs of a sweep and the trials of a search. No file
can give it.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from skinkd.errors import UserError, nearest

ENVIRONMENT = "SKINKD_ALLOW_TARGETS"
"""The packages that ``allow_targets`` gave, with commas between them."""

WORD = "allow_targets="

TORCH_OPTIMIZERS = (
    *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax"),
    *("LBFGS", "Muon", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"),
)
NO_TRANSFORMS = ("BasicTransform", "BaseCompose", "BboxParams", "KeypointParams", "Lambda")
"""Public classes of albumentations that make no image from an image by themselves; Lambda calls any function."""

ALLOWED = {
    "data.table": r"skinkd\.data\.[a-z]\w*\.load_\w+",
    "augment.train": rf"skinkd\.data\.[a-z]\w*\.[A-Z]\w*|albumentations\.(?!(?:{'|'.join(NO_TRANSFORMS)})$)[A-Z]\w*",
    "backbone": r"skinkd\.models\.[a-z]\w*\.[A-Z]\w*",
    "method": r"skinkd\.methods\.[a-z]\w*\.[A-Z]\w*",
    "optim.optimizer": rf"torch\.optim\.(?:{'|'.join(TORCH_OPTIMIZERS)})",
    "optim.schedule": r"skinkd\.methods\.schedules\.[a-z]\w*",
}
"""Every setting that is built -> the names that it may have, as a pattern. A list of transforms has several, in each other."""

IN_WORDS = {
    "data.table": "a function load_<name> of a module in skinkd/data/",
    "augment.train": "a transform of albumentations, such as albumentations.HorizontalFlip, or a class in skinkd/data/",
    "backbone": "a class of a module in skinkd/models/, such as skinkd.models.backbone.Backbone",
    "method": "a class of a module in skinkd/methods/, such as skinkd.methods.supervised.Supervised",
    "optim.optimizer": "an optimiser of torch.optim, such as torch.optim.SGD",
    "optim.schedule": "a function of skinkd.methods.schedules, such as skinkd.methods.schedules.cosine",
}
"""The same in words, with an example, to end a sentence."""

MOST_NODES = 100_000
"""Values in one configuration. Ours have below 1,000; YAML's anchors write a billion in ten lines."""

_SPECIAL = {"_target_", "_partial_", "_convert_"}


def take_allowed(arguments: list[str]) -> list[str]:
    """Return the command line without ``allow_targets=…``, whose packages go to the environment.

    Raises:
        UserError: a name that is no package's, or a package of Python itself.
    """
    given = [argument.removeprefix(WORD) for argument in arguments if argument.startswith(WORD)]
    if given:
        packages = [name.strip("'\" ") for text in given for name in text.strip("'\"[] ").split(",")]
        for package in packages:
            if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", package):
                raise UserError(f"{WORD}{package} is no name of a package; give one, such as {WORD}mine")
            if _is_pythons(package):
                raise UserError(f"{WORD}{package} would let a file run any code; give a package of your own")
        os.environ[ENVIRONMENT] = ",".join(packages)
    return [argument for argument in arguments if not argument.startswith(WORD)]


def allowed_packages() -> list[str]:
    """The packages that the person who runs the command has allowed besides the list."""
    return [name for name in os.environ.get(ENVIRONMENT, "").split(",") if name]


def allowed_words() -> list[str]:
    """The word of a command line that allows the same packages; none if none are allowed."""
    packages = allowed_packages()
    return [f"{WORD}{','.join(packages)}"] if packages else []


def package_of(target: str, place: str) -> str | None:
    """Return the package that must define ``target`` of the setting ``place``; None: the target is not allowed.

    Without it ``mine.module.os.system`` would be a name of ``mine``.
    """
    if re.fullmatch(ALLOWED[place], target):
        first, second, *_ = target.split(".")
        return first if first == "albumentations" else f"{first}.{second}"
    fitting = [name for name in allowed_packages() if target.startswith(f"{name}.") and not _is_pythons(name)]
    return max(fitting, key=len, default=None)


def check_targets(tree: Any, *, place: str) -> None:
    """Raise UserError unless every ``_target_`` at any depth of a setting may be built.

    Args:
        tree: plain values, as the setting has them; other objects are left alone.
        place: the setting, a key of ``ALLOWED``.
    """
    for name, node in _nodes(tree, place):
        if isinstance(node, str) and "${" in node:
            raise UserError(f"{name}={_short(node)} refers to another value, and a stored one may not; write the value")
        if not isinstance(node, Mapping):
            continue
        target = node.get("_target_", "")
        package = package_of(target, place) if isinstance(target, str) else None
        nested = name != place and place != "augment.train" and package not in allowed_packages()
        if "_target_" in node and (package is None or nested):
            raise UserError(f"{name}._target_={_short(target)} is refused: {_remedy(target, place)}")
        for key in node:
            if isinstance(key, str) and key.startswith("_") and key.endswith("_") and key not in _SPECIAL:
                raise UserError(
                    f"{name}.{key} is refused: the arguments of a constructor are given by their names"
                    f"{nearest(key, _SPECIAL)}"
                )


def check_config(config: Mapping[str, Any], *, inside: str = "") -> None:
    """Check every setting of a resolved configuration that is built, and those of its teacher's recipe.

    Raises:
        UserError: as :func:`check_targets`.
    """
    for place in ALLOWED:
        tree: Any = config
        for name in place.split("."):
            tree = tree.get(name) if isinstance(tree, Mapping) else None
        if place == "method" and isinstance(tree, Mapping):
            teacher = tree.get("teacher")
            tree = {name: value for name, value in tree.items() if name != "teacher"}
            if isinstance(teacher, Mapping) and isinstance(teacher.get("run"), Mapping):
                check_config(teacher["run"], inside=f"{inside}method.teacher.run.")
        try:
            check_targets(tree, place=place)
        except UserError as error:
            raise UserError(f"{inside}{error}") from None


def _nodes(tree: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Every value with its dotted name. A value that stands in several places counts each time."""
    waiting, count = [(place, tree)], 0
    while waiting:
        name, node = waiting.pop()
        count += 1
        if count > MOST_NODES:
            raise UserError(
                f"{place} has more than {MOST_NODES} values; no configuration of ours has, so it is refused"
            )
        yield name, node
        if isinstance(node, Mapping):
            waiting += [(f"{name}.{key}", value) for key, value in node.items()]
        elif isinstance(node, list | tuple):
            waiting += [(f"{name}[{number}]", value) for number, value in enumerate(node)]


def _remedy(target: Any, place: str) -> str:
    if not isinstance(target, str) or not re.fullmatch(r"\w+(\.\w+)+", target):
        return "it must be a module and a name in it, with dots, such as mine.module.Name"
    top = target.split(".")[0]
    if not _is_pythons(top) and top not in ("skinkd", "torch", "albumentations"):
        return f"it is not skinkd's; if {top} is a package of your own, add {WORD}{top} to the command"
    return f"it must be {IN_WORDS[place]}; correct the name, and if the file is not your own, do not use it"


def _is_pythons(package: str) -> bool:
    return package.split(".")[0] in sys.stdlib_module_names or package.split(".")[0] in ("hydra", "omegaconf")


def _short(value: Any) -> str:
    text = str(value) if isinstance(value, str) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."
