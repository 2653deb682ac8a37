"""A check that each override of a command line names an existing group, choice or key, with a value of its kind.

The error for a wrong name lists the nearest valid names.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_module
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, OverrideType, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from skinkd.config.command_line import CONF, config_dir, group_of, is_override
from skinkd.config.quoting import word
from skinkd.config.ranges import range_of
from skinkd.config.user_errors import first_line
from skinkd.errors import UserError, nearest

_PLACES_OF_HYDRA = ("hydra.run", "hydra.sweep", "hydra.output_subdir")
BESIDE_A_STORED = ("config", "force", "run_dir", "paths", "sweep", "hydra")
"""Settings that hold beside ``config=<file>``."""
_TEACHER = "method.teacher.run."
_OTHER_CONFIGURATION = ("--config-name", "-cn", "--config-path", "-cp", "--experimental-rerun")
_NO_CHECK = (
    "-h",
    "--help",
    "--hydra-help",
    "-sc",
    "--shell-completion",
    "-i",
    "--info",
)

Groups = dict[str, list[str]]  # the choices of each group


def check_overrides(config_name: str, arguments: list[str]) -> None:
    """Raise UserError for the first override that names no group, choice or key, or whose value has the wrong type."""
    if any(argument.split("=")[0] in _NO_CHECK for argument in arguments):
        return
    if {"-m", "--multirun"} & set(arguments) and {"--cfg", "-c"} & set(arguments):
        raise UserError("--cfg shows one configuration; leave -m out and give each setting one value")
    for argument in arguments:
        if argument.startswith("~"):
            raise UserError(f"{argument} removes a setting, and a run needs each of them; give it another value")
        if argument.split("=")[0] in _OTHER_CONFIGURATION:
            raise UserError(
                f"{argument} names another configuration, and each verb has its own; give config=<config.yaml of a run>, or "
                "add choices of yours with --config-dir"
            )
    if "--resolve" in arguments and not any(argument.split("=")[0] in ("--cfg", "-c") for argument in arguments):
        raise UserError("--resolve is for --cfg job, which shows the configuration; give both, or leave it out")
    texts = [argument for argument in arguments if is_override(argument)]
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if "=" not in argument and not argument.startswith(("-", "~")) and not before.startswith("-"):
            raise UserError(f"{argument!r} is no override; write group=choice or key=value, or see --help")
    overrides = [_parsed(text) for text in texts]
    _refuse_misplaced(config_name, overrides, multirun=bool({"-m", "--multirun"} & set(arguments)))
    with initialize_config_module(version_base="1.3", config_module=CONF):
        loader: Any = GlobalHydra.instance().config_loader()
        _search_also(loader, config_dir(arguments))
        named = {override.key_or_group for override in overrides}
        names = [name for name in loader.list_groups("") if name != "hydra"]
        # listing the choices of every group would take a tenth of a second
        groups = {name: loader.repository.get_group_options(name) if name in named else [] for name in names}
        hydras = {name: loader.repository.get_group_options(name) for name in named if name.startswith("hydra/")}
        for override in overrides:
            options = (groups | hydras).get(override.key_or_group, [])
            for choice in _values(override, groups | hydras) if options else []:
                if choice is not None and choice not in options:
                    hint = _own_file(override.key_or_group, str(choice), config_dir(arguments))
                    raise UserError(
                        f"{group_of(override)}={choice} is not a choice{hint or nearest(str(choice), options)}"
                    )
        chosen = [override for override in overrides if override.key_or_group in groups]
        settings = [o for o in overrides if o not in chosen and not o.key_or_group.startswith("hydra")]
        for choices in _each_choice(chosen, groups):
            config: Any = OmegaConf.to_container(_compose(config_name, choices))
            keys = list(_keys(config))
            swept = [text for text, override in zip(choices, chosen, strict=True) if override.is_sweep_override()]
            for override in settings:
                _check_key(override, config, keys, groups, f" with {' '.join(swept)}" if swept else "")
        # at the end all overrides together, for mistakes that only Hydra finds
        plain = [o for o in [*chosen, *settings] if not o.is_sweep_override()]
        if any(_needs_hydra(override) for override in plain):
            _compose(config_name, [override.input_line or "" for override in plain])


def _own_file(group: str, choice: str, folder: Path | None) -> str:
    """Return the end of the error for a choice whose file is there and is not read; "" if there is no such file."""
    wanted = Path(group) / f"{choice}.yaml"
    if folder is None:
        return f"; add --config-dir conf, so that conf/{wanted} is read" if (Path("conf") / wanted).is_file() else ""
    found = [file for ending in ("yaml", "yml") for file in sorted(folder.rglob(f"{choice}.{ending}"))]
    return f"; {found[0]} is not read, as its place is {folder / wanted}; move it there" if found else ""


def _parsed(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        key, _, value = text.partition("=")
        raise UserError(
            f"{text} cannot be read ({first_line(error)}); if the value is one text, quote it for Hydra and for the shell: "
            f"{word(key, value)}"
        ) from None


def _refuse_misplaced(config_name: str, overrides: list[Override], *, multirun: bool) -> None:
    """Raise UserError for an override that Hydra takes and nothing would follow."""
    for override in overrides:
        key, text = override.key_or_group, override.input_line or ""
        # Lightning starts the other processes of a run with the values that conf/ has
        as_it_is = text.replace('"', "") in ("hydra.run.dir=.", "hydra.output_subdir=null")
        places = key.startswith(("hydra.run.", "hydra.sweep.")) or key in _PLACES_OF_HYDRA
        if places and not as_it_is:
            raise UserError(
                f"{text} has no effect, as a run's folder follows from its configuration; give run_dir=<folder> for this run, "
                "or paths.output_dir=<folder> for all"
            )
        if override.is_sweep_override() and key.startswith("hydra"):
            raise UserError(
                f"{text} has several values, and Hydra's own settings hold for a whole sweep; give one value"
            )
        if override.is_sweep_override() and not multirun:
            value = text.partition("=")[2]
            raise UserError(
                f"{text} has several values; add -m to run each of them, or, if it is one text, write {word(key, value)}"
            )
    stored = next((o for o in overrides if o.key_or_group == "config" and o.value() is not None), None)
    if stored is None:
        return
    if config_name != "train":
        raise UserError(f"{stored.input_line} is for python -m skinkd.train; give data=… and other settings themselves")
    if not Path(str(stored.value())).is_file():  # whoever opens it says so
        return
    for override in overrides:
        if not override.key_or_group.startswith(BESIDE_A_STORED):
            raise UserError(
                f"{override.input_line} has no effect beside {stored.input_line}, which runs a stored configuration as it is; "
                "leave it out, or give the whole command anew"
            )


def composed(config_name: str, arguments: list[str]) -> DictConfig:
    """Compose a configuration outside of Hydra's main, from overrides and, if given, ``--config-dir``."""
    with initialize_config_module(version_base="1.3", config_module=CONF):
        _search_also(GlobalHydra.instance().config_loader(), config_dir(arguments))
        return compose(config_name, overrides=[argument for argument in arguments if is_override(argument)])


def _search_also(loader: Any, folder: Path | None) -> None:
    """Search ``folder`` as Hydra itself will, before the schemas."""
    if folder is not None:
        path = loader.config_search_path
        path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
        loader.repository.initialize_sources(path)


def _compose(config_name: str, overrides: list[str]) -> DictConfig:
    try:
        return compose(config_name, overrides=overrides)
    except yaml.YAMLError as error:
        raise UserError(_not_yaml(error)) from None
    except (HydraException, OmegaConfBaseException) as error:
        told = str(error).partition("Config search path")[0].partition("full_key")[0].partition("object_type")[0]
        reason = " ".join(told.split()) or type(error).__name__
        raise UserError(f"the configuration cannot be composed: {reason}; correct that file, or the word") from None


def _not_yaml(error: yaml.YAMLError) -> str:
    """Return the sentence on a file in conf/ that is no YAML, with its line."""
    mark = getattr(error, "problem_mark", None)
    place = f"{mark.name}, line {mark.line + 1}" if mark is not None else "a file in conf/"
    problem = getattr(error, "problem", None) or first_line(error)
    return (
        f"{place} cannot be read as YAML ({problem}); write <key>: <value> with a space after the colon, indent with spaces, "
        "and put text that holds ${…}, braces or a colon in quotes"
    )


def _each_choice(chosen: list[Override], groups: Groups) -> Iterator[list[str]]:
    """Yield the group choices without a sweep: first the first value of every group, then each further value of one group."""
    names = [f"{'+' if override.is_add() else ''}{group_of(override)}" for override in chosen]
    values = [_values(override, groups) for override in chosen]
    texts = [["null" if value is None else str(value) for value in choices] for choices in values]
    first = [f"{name}={choices[0]}" for name, choices in zip(names, texts, strict=True)]
    yield first
    for place, (name, choices) in enumerate(zip(names, texts, strict=True)):
        for text in choices[1:]:
            yield [*first[:place], f"{name}={text}", *first[place + 1 :]]


def _check_key(override: Override, config: dict[str, Any], keys: list[str], groups: Groups, where: str) -> None:
    """Check a setting against a composed configuration, in which ``keys`` are all settings."""
    key = override.key_or_group
    if override.is_add() or override.is_force_add():
        return
    if key not in keys and not key.rpartition(".")[2].startswith("_"):
        raise UserError(
            f"{key} is not a setting{where}{_teacher_hint(key, keys) or nearest_key(key, [*keys, *groups])}"
        )
    if override.is_delete():
        return
    default: Any = config
    for name in key.split("."):
        default = default[name]
    if isinstance(default, str) and "${" in default:
        return
    for value in _values(override, groups):
        _check_type(key, value, default)


def _needs_hydra(override: Override) -> bool:
    """Return whether Hydra can refuse an override that ``_check_key`` accepts.

    It accepts a choice of a group, and a single value of an existing setting. Composing takes a quarter of a second.
    """
    value = override.value()
    single = not isinstance(value, dict | list) and "${" not in str(value)
    hidden = override.key_or_group.rpartition(".")[2].startswith("_")
    return override.type is not OverrideType.CHANGE or override.package is not None or hidden or not single


def _teacher_hint(key: str, keys: list[str]) -> str:
    """Return the end of the error for a setting that the teacher inherits from the student: ``+`` makes it differ.

    Return "" if the key is no such setting.
    """
    name = key.removeprefix(_TEACHER)
    if name == key or name.startswith("method.") or "method.teacher.run" not in keys:
        return ""
    if name in keys:
        return f" of this teacher's recipe yet; add it with +{key}=<value>"
    if key.rpartition(".")[0] in keys:  # misspelt, next to settings that the recipe has
        return ""
    return nearest_key(f"+{key}", [f"+{_TEACHER}{known}" for known in keys if not known.startswith("method.")])


def _check_type(key: str, value: Any, default: Any) -> None:
    kinds: dict[type, tuple[tuple[type, ...], str]] = {
        bool: ((bool,), "true or false"),
        int: ((int,), "a whole number"),
        float: ((int, float), "a number"),
        dict: ((dict,), "a mapping, {name: value, …}"),
        list: ((list,), "a list, [value, …]"),
    }
    if type(default) not in kinds:
        return
    allowed_range = range_of(key)
    if value is None and allowed_range is not None and allowed_range.null:
        return
    allowed, words = kinds[type(default)]
    is_bool_for_number = isinstance(value, bool) and bool not in allowed
    if not isinstance(value, allowed) or is_bool_for_number:
        example = str(default).lower() if isinstance(default, bool) else default
        raise UserError(f"{key}={value} must be {words}, such as {key}={example}")


def nearest_key(key: str, keys: list[str]) -> str:
    """Like ``errors.nearest``, but list only the settings with the same parent as the dotted key, not all settings."""
    parent = key.rpartition(".")[0]
    siblings = [name for name in keys if name.rpartition(".")[0] == parent] or [n for n in keys if "." not in n]
    same_leaf = [name for name in keys if name.rpartition(".")[2] == key.rpartition(".")[2]]
    if same_leaf:
        return f"; did you mean {' or '.join(repr(name) for name in same_leaf[:3])}?"
    return nearest(key, siblings)


def _keys(config: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        if name.startswith("_"):
            continue
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{name}.")


def _values(override: Override, groups: Groups) -> list[Any]:
    """Return the values that an override sweeps over, or its single value, as plain Python.

    Raises:
        UserError: a sweep that has no values.
    """
    value, text = override.value(), override.input_line
    if not override.is_sweep_override():
        return [value]
    if isinstance(value, IntervalSweep):
        raise UserError(f"{text} has no separate values; list them, as in {group_of(override)}=a,b, or use skinkd.tune")
    try:
        if isinstance(value, Glob):
            choices = groups.get(override.key_or_group)
            if choices is None:
                raise UserError(
                    f"{text}: glob is for the choices of a group; list the values, as in {group_of(override)}=a,b"
                )
            found: list[Any] = value.filter(choices)
            if not found:
                raise UserError(f"{text} matches no choice; valid: {', '.join(choices)}")
        elif isinstance(value, RangeSweep):
            found = list(value.range())
        else:
            parser = OverridesParser.create()
            lines = [f"{override.key_or_group}={each}" for each in override.sweep_string_iterator()]
            found = [parsed.value() for parsed in parser.parse_overrides(lines)]
    except (HydraException, ValueError) as error:  # a step of 0
        raise UserError(f"{text} cannot be read ({first_line(error)}); list the values instead") from None
    if not found:
        raise UserError(f"{text} has no values; give at least one")
    return found
