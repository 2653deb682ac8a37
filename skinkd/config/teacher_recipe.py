"""The teacher's recipe: the student's configuration, overridden by the keys of ``method.teacher.run``.

A teacher is an ordinary run in a separate run folder. The folder's name follows from the teacher's configuration, so every
student that needs the same teacher finds the same folder.
"""

import copy
import functools
from importlib.resources import files
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from skinkd.config.identity import as_given
from skinkd.errors import UserError, nearest

GROUPS = ("method", "backbone", "optim", "augment")
"""Parts of the configuration that a choice in ``method.teacher.run`` replaces whole; every other part is merged."""

OF_THE_RUN = {"run_dir": None, "job_type": "teacher", "force": False, "config": None}
"""Settings of every teacher's run, regardless of the student's."""

_FREE_FORM = ("options",)  # mappings whose names another library defines

Config = dict[str, Any]


def teacher_settings(settings: DictConfig) -> DictConfig:
    """Return the unresolved configuration of the teacher's run, given the student's configuration.

    Raises:
        UserError: ``method.teacher.run`` has a name that the student's configuration lacks.
    """
    # as given: what the student's run derived from its settings is not the teacher's
    student = as_given(OmegaConf.to_container(settings, resolve=False))  # type: ignore[arg-type]
    run = _inherit(student["method"]["teacher"]["run"], student)
    teacher = for_any_student(student)
    teacher.pop("given", None)
    if "paths" in run:
        raise UserError("method.teacher.run.paths is refused: a teacher's run lies beside its student's; leave it out")
    _check_names(run, teacher)
    for name, value in run.items():
        teacher[name] = value if name in GROUPS and _is_choice(value) else _merged(teacher[name], value)
    return OmegaConf.create(teacher | OF_THE_RUN)


def for_any_student(config: Config) -> Config:
    """Return a copy with defaults for the settings that change neither the teacher's weights nor its comparison.

    Students that differ in these settings alone share their teacher. The teacher keeps the student's calibration bins and
    interval level, since only runs that agree in them are compared. It keeps the student's ``data.eval_batch_size``, since
    a larger batch may not fit into memory.
    """
    config, default = copy.deepcopy(config), _defaults()
    for name in ("bootstrap_replicates", "early_exit_thresholds"):
        config["evaluation"][name] = default["evaluation"][name]
    if "near_duplicate_bits" not in config["data"]["table"]:  # there it decides the groups, and so the split
        config["data"]["near_duplicate_bits"] = default["data"]["near_duplicate_bits"]
    return config


@functools.cache
def _defaults() -> Config:
    # Read as a file: composing takes a quarter of a second, and Hydra composes in one place at a time, while a teacher's
    # configuration is also needed inside a verb that Hydra has configured. No group changes the settings read here.
    text = files("skinkd.conf").joinpath("train.yaml").read_text(encoding="utf-8")
    defaults: Config = yaml.safe_load(text)
    return defaults


def _is_choice(value: Any) -> bool:
    """Return whether the value is a complete choice of a group, which says what to build, and not a few of its settings."""
    if not isinstance(value, dict):
        return True
    return "_target_" in value or any(isinstance(inner, dict) and "_target_" in inner for inner in value.values())


def _check_names(run: Any, student: Any, place: str = "") -> None:
    """Refuse a name in ``method.teacher.run`` that nothing would read."""
    if not (isinstance(run, dict) and isinstance(student, dict)) or (place and _is_choice(run)):
        return
    known = [name for name in student if not name.startswith("_")]
    for name, value in run.items():
        if place == "trainer." and name not in known:
            known += _trainer_arguments()
        if name not in known and not name.startswith("_"):
            raise UserError(f"method.teacher.run.{place}{name} is not a setting{nearest(name, known)}")
        if name not in _FREE_FORM:
            _check_names(value, student.get(name), f"{place}{name}.")


def _trainer_arguments() -> list[str]:
    import inspect

    import lightning as L  # slow to import, and seldom needed

    return list(inspect.signature(L.Trainer).parameters)


def _inherit(node: Any, student: Config, place: tuple[str, ...] = ()) -> Any:
    """Replace a value that refers to its own place, such as ``optim: ${optim}``, by the student's value there.

    It does so for teachers of teachers too.
    """
    if isinstance(node, dict):
        start = () if place[-3:] == ("method", "teacher", "run") else place
        return {name: _inherit(value, student, (*start, name)) for name, value in node.items()}
    if node != f"${{{'.'.join(place)}}}":
        return node
    value = student
    for name in place:
        value = value[name]
    return copy.deepcopy(value)


def _merged(under: Any, over: Any) -> Any:
    """Return ``under`` with the values of ``over``, mapping by mapping."""
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return under | {name: _merged(under.get(name), value) for name, value in over.items()}
