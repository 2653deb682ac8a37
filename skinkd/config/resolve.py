"""From Hydra's configuration to plain, resolved values. A run stores them, and its name follows from them."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from skinkd.config.teacher_recipe import OF_THE_RUN, for_any_student, teacher_settings
from skinkd.errors import UserError

Config = dict[str, Any]


def stored_settings(settings: DictConfig) -> DictConfig:
    """Return the configuration to run: with ``config=<file>``, the configuration that the file stores.

    Raises:
        UserError: ``config`` is not a file.
    """
    if settings.config is None:
        return settings
    path = Path(settings.config)
    if not path.is_file():
        raise UserError(f"config={path} is not a file; give the config.yaml of a run folder")
    stored = OmegaConf.load(path)
    stored.force = settings.force
    return stored  # type: ignore[return-value]


def read_config(file: Path) -> Config:
    """Read a stored config.yaml as plain values."""
    return OmegaConf.to_container(OmegaConf.load(file))  # type: ignore[return-value]


def resolved(settings: DictConfig) -> Config:
    """Return the configuration with every interpolation resolved.

    ``method.teacher.run`` then holds exactly the settings in which the teacher's run differs from the student's, with the
    teacher's values. So a stored configuration describes the same teacher as the command line that it came from, also where
    a setting refers to another setting (image sizes refer to ``data``).
    """
    config: Config = OmegaConf.to_container(settings, resolve=True)  # type: ignore[assignment]
    if "teacher" in config["method"]:
        teacher, student = teacher_config(settings), for_any_student(config)
        config["method"]["teacher"]["run"] = {
            name: value for name, value in teacher.items() if name not in OF_THE_RUN and value != student[name]
        }
    return config


def teacher_config(settings: DictConfig) -> Config:
    """Return the resolved configuration of the teacher's run, given the student's configuration, resolved or not.

    Raises:
        UserError: ``method.teacher.run`` has a name that the student's configuration lacks.
    """
    return resolved(teacher_settings(settings))
