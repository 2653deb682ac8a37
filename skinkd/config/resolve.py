"""From Hydra's configuration to plain, resolved values. A run stores them, and its name follows from them."""

import io
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from skinkd.config.identity import as_given
from skinkd.config.names import check_names
from skinkd.config.ranges import check_ranges
from skinkd.config.required import check_required
from skinkd.config.stored import not_yaml, stored_yaml
from skinkd.config.stored_paths import below_the_commands
from skinkd.config.targets import check_config
from skinkd.config.teacher_recipe import OF_THE_RUN, for_any_student, teacher_settings
from skinkd.config.trainer_arguments import check_trainer
from skinkd.errors import UserError

Config = dict[str, Any]


def stored_settings(settings: DictConfig) -> DictConfig:
    """Return the configuration to run: with ``config=<file>``, the configuration that the file stores.

    It writes below the folders of the command, or into the folder where the file lies (:mod:`skinkd.config.stored_paths`).

    Raises:
        UserError: ``config`` is not a file, is not a stored configuration, or would have the run write elsewhere.
    """
    if settings.config is None:
        return settings
    path = Path(settings.config).expanduser()
    if not path.is_file():
        raise UserError(f"config={path} is not a file; give the config.yaml of a run folder")
    stored = _load(path)
    config: Config = OmegaConf.to_container(stored)  # type: ignore[assignment]
    folders: Config = OmegaConf.to_container(OmegaConf.create({"paths": settings.paths}), resolve=True)  # type: ignore[assignment]
    moved = below_the_commands(config, folders["paths"], file=path)
    return OmegaConf.create(moved | {"force": settings.force, "run_dir": settings.run_dir or moved["run_dir"]})


def read_config(file: Path) -> Config:
    """Read a stored config.yaml as plain values."""
    return OmegaConf.to_container(_load(file))  # type: ignore[return-value]


def _load(file: Path) -> DictConfig:
    text = stored_yaml(file)
    try:
        stored = OmegaConf.load(io.StringIO(text))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise not_yaml(file, error) from None
    if not isinstance(stored, DictConfig):
        raise UserError(f"{file} does not hold names with values; give the config.yaml of a run folder")
    return stored


def resolved(settings: DictConfig) -> Config:
    """Return the configuration with every interpolation resolved.

    ``method.teacher.run`` then holds exactly the settings in which the teacher's run differs from the student's, with the
    teacher's values. So a stored configuration describes the same teacher as the command line that it came from, also where
    a setting refers to another setting (image sizes refer to ``data``).

    Raises:
        UserError: a ``_target_`` that may not be built (:mod:`skinkd.config.targets`), a setting that its file lacks
            (:mod:`skinkd.config.required`), a name that is no folder's, a number out of range, or an argument of the trainer
            that is refused.
    """
    config: Config = OmegaConf.to_container(settings, resolve=True)  # type: ignore[assignment]
    check_config(config)
    check_required(config)
    check_names(config)
    check_ranges(config)
    check_trainer(config["trainer"])
    if "teacher" in config["method"]:
        teacher, student = teacher_config(settings), for_any_student(as_given(config))
        config["method"]["teacher"]["run"] = {
            name: value for name, value in teacher.items() if name not in OF_THE_RUN and value != student[name]
        }
    return config


def teacher_config(settings: DictConfig) -> Config:
    """Return the resolved configuration of the teacher's run, given the student's configuration, resolved or not.

    Raises:
        UserError: ``method.teacher.run`` has a name that the student's configuration lacks.
    """
    recipe = teacher_settings(settings)
    try:
        return resolved(recipe)
    except UserError as error:
        raise UserError(f"the teacher's run (method.teacher.run): {error}") from None
