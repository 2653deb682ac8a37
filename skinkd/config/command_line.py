"""The words of a command line, put into the order and the form that Hydra takes, before Hydra reads them."""

from importlib.resources import files
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf

from skinkd.errors import UserError

CONF = "skinkd.conf"
_FOLDER_FLAGS = ("-cd", "--config-dir")


def stored_sweep(arguments: list[str]) -> list[str]:
    """Return the command line with ``sweep=<name>`` replaced by the overrides in that file.

    An override that is also on the command line replaces the file's. So a stored sweep takes the same settings as a typed
    sweep, including settings inside the methods that it sweeps.
    """
    names = [argument.removeprefix("sweep=") for argument in arguments if argument.startswith("sweep=")]
    file = files(CONF) / "sweep" / f"{names[0]}.yaml" if len(names) == 1 else None
    if file is None or not file.is_file() or {"--cfg", "-c"} & set(arguments):
        return arguments  # check_overrides reports a wrong name; --cfg shows a single configuration
    swept = OmegaConf.create(file.read_text()).hydra.sweeper.params
    rest = [argument for argument in arguments if not argument.startswith("sweep=")]
    given = {argument.lstrip("+~").split("=")[0] for argument in rest}
    flag = [] if {"-m", "--multirun"} & set(rest) else ["-m"]
    return [*flag, *(f"{key}={values}" for key, values in swept.items() if key not in given), *rest]


def flag_first(arguments: list[str]) -> list[str]:
    """Return the command line with ``-m`` and ``--config-dir`` first: Hydra refuses a flag between two overrides."""
    first: list[bool] = []
    for argument, before in zip(arguments, ["", *arguments], strict=False):
        flag = argument.partition("=")[0]
        first.append(flag in ("-m", "--multirun", *_FOLDER_FLAGS) or before in _FOLDER_FLAGS)
    flags = [argument for argument, is_first in zip(arguments, first, strict=True) if is_first]
    return flags + [argument for argument, is_first in zip(arguments, first, strict=True) if not is_first]


def hold_back(arguments: list[str]) -> list[str]:
    """Return the command line with each setting inside a swept group written as a sweep over a single value.

    Hydra first composes the configuration without the swept overrides. There, settings of the swept choices do not exist,
    such as the teacher's with ``method=kd,ssdkd``, and Hydra would refuse them. Sweeps are applied later, to each job.
    """
    try:
        overrides = OverridesParser.create().parse_overrides([text for text in arguments if is_override(text)])
    except HydraException:
        return arguments  # check_overrides reports the mistake
    inside = tuple(f"{override.key_or_group}." for override in overrides if override.is_sweep_override())
    result = {
        override.input_line: f"{group_of(override)}=choice({override.get_value_element_as_str()})"
        for override in overrides
        if (override.package or override.key_or_group).startswith(inside)
        and override.type is OverrideType.CHANGE
        and not override.is_sweep_override()
    }
    return [result.get(argument, argument) for argument in arguments]


def is_override(argument: str) -> bool:
    """Return whether a word is an override, and no flag."""
    return "=" in argument and not argument.startswith("-")


def config_dir(arguments: list[str]) -> Path | None:
    """Return the folder of ``--config-dir`` or ``-cd``, which Hydra searches for further choices; None: not given.

    Raises:
        UserError: there is no such folder, or a file in it has the name of a file of skinkd, which Hydra would take instead.
    """
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        flag, equals, value = argument.partition("=")
        if flag in _FOLDER_FLAGS:
            folder = Path(value if equals else following)
            if not folder.is_dir():
                raise UserError(f"--config-dir={folder} is no folder; give one with files such as method/<name>.yaml")
            _refuse_hidden(folder.resolve())
            return folder.resolve()
    return None


def _refuse_hidden(folder: Path) -> None:
    ours = Path(str(files(CONF)))
    for file in sorted(folder.rglob("*.yaml")) if folder != ours.resolve() else ():
        name = file.relative_to(folder)
        if (ours / name).is_file():
            raise UserError(f"{file} would be ignored, because skinkd has a file {name} too; give it another name")


def group_of(override: Override) -> str:
    """Return the group, with its place if the override gives a place: ``backbone@method.teacher.run.backbone``."""
    return f"{override.key_or_group}@{override.package}" if override.package else override.key_or_group
