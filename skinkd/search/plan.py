"""From the configuration of a search to its plan: the space, and how parameters become a run of ``skinkd.train``."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from skinkd.build.teachers import find_teacher
from skinkd.config.identity import identity, run_path
from skinkd.config.names import check_names
from skinkd.config.overrides import check_overrides, composed
from skinkd.config.ranges import check_ranges, check_value
from skinkd.config.resolve import resolved
from skinkd.errors import UserError, check_choice
from skinkd.runs.tracking import check_tracker
from skinkd.search.space import override, parse_space
from skinkd.search.study import Search

_OF_THE_SEARCH = ("tune", "tune_space", "hydra", "evaluation.test")
_UNSEEN = "evaluation.test=false"


def plan_search(settings: DictConfig, given: list[str], flags: Sequence[str] = ()) -> Search:
    """Return the plan for :func:`skinkd.search.study.search`.

    Args:
        settings: the configuration of ``python -m skinkd.tune``.
        given: the overrides on the command line.
        flags: ``--config-dir=<folder>``, if the command has it.

    Raises:
        UserError: a setting does not suit a search, or the space cannot be searched.
    """
    return _plan(settings, [text for text in given if not _is_of_the_search(_name(text))], list(flags))


def _plan(settings: DictConfig, base: list[str], flags: list[str]) -> Search:
    def compose(overrides: list[str]) -> DictConfig:
        return composed("train", [*flags, *overrides])

    options: dict[str, Any] = OmegaConf.to_container(settings.tune, resolve=True)  # type: ignore[assignment]
    _check_options(options)
    check_names({"tune": options})
    plain = compose(base)
    config = resolved(plain)
    check_tracker(config["logger"])
    where, given = _given_space(settings, config)
    space = parse_space(given, _values(plain, list(given or {})), where=where)
    _check_settings([*flags, *base], space, where)
    parts = {
        "configuration": identity(config),
        "space": given,
        "sampler": options["sampler"],
        "pruner": options["pruner"],
    }
    text = json.dumps(parts, sort_keys=True)
    study = options["study"] or "-".join(
        [
            *(str(config[group]["name"]).replace("/", "_") for group in ("method", "data", "backbone")),
            hashlib.sha256(text.encode()).hexdigest()[:8],
        ]
    )
    fixed = [text for text in base if _name(text) not in space]
    if _has_one_teacher(config, space):
        teacher = find_teacher(compose([*base, _UNSEEN])).parent.parent
        fixed.append(override("method.teacher.ckpt", str(teacher)))

    def overrides(parameters: dict[str, Any]) -> list[str]:
        return [*fixed, *(override(name, value) for name, value in parameters.items())]

    extra = [_UNSEEN, *([] if config["group"] else [override("group", study)])]
    extra += [] if config["job_type"] else ["job_type=tune"]
    return Search(
        name=study,
        folder=Path(config["paths"]["output_dir"]) / "tune" / study,
        parts=parts,
        space=space,
        metric=config["monitor"]["metric"],
        mode=check_choice("monitor.mode", config["monitor"]["mode"], ("min", "max")),
        epochs=config["trainer"]["max_epochs"],
        seed=config["seed"],
        options=options,
        overrides=overrides,
        extra=extra,
        flags=flags,
        run_folder=lambda parameters: run_path(resolved(compose([*overrides(parameters), *extra]))),
    )


def _given_space(settings: DictConfig, config: dict[str, Any]) -> tuple[str, Any]:
    """Return the search space and its name in messages: ``tune.space`` if given, else that of the ``tune_space`` file."""
    if settings.tune.space is not None:
        return "tune.space", OmegaConf.to_container(settings.tune.space)
    if settings.get("tune_space") is None:
        raise UserError(
            f"method={config['method']['name']} has no file in tune_space; give tune_space=<another method>, or "
            "tune.space='{optim.lr: {low: 1e-3, high: 0.3, log: true}}'"
        )
    return "tune_space", OmegaConf.to_container(settings.tune_space)


def _has_one_teacher(config: dict[str, Any], space: dict[str, Any]) -> bool:
    """Return whether all trials share one teacher, trained with the settings outside the search.

    Otherwise a teacher would follow the trial's settings, such as ``optim.lr``.
    """
    searched = any(name == "method" or name.startswith("method.teacher") for name in space)
    return "teacher" in config["method"] and config["method"]["teacher"]["ckpt"] == "auto" and not searched


def _check_options(options: dict[str, Any]) -> None:
    check_ranges({"tune": options})
    check_choice("tune.sampler.name", options["sampler"]["name"], ("tpe", "random"))
    check_choice("tune.pruner.name", options["pruner"]["name"], ("median", "hyperband", "none"))


def _check_settings(base: list[str], space: dict[str, Any], where: str) -> None:
    """Check that every value is valid: compose a configuration with the first value of each setting, the second, and so on."""
    values = {
        name: list(entry.choices) if hasattr(entry, "choices") else [entry.low, entry.high]
        for name, entry in space.items()
    }
    for number in range(max(map(len, values.values()))):
        chosen = [override(name, every[min(number, len(every) - 1)]) for name, every in values.items()]
        try:
            check_overrides("train", [*(text for text in base if _name(text) not in space), *chosen])
            for name, every in values.items():
                check_value(name, every[min(number, len(every) - 1)])
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def _values(plain: DictConfig, names: list[str]) -> dict[str, Any]:
    """Return the values of these settings without the search."""
    return {name: OmegaConf.select(plain, name) for name in names}


def _name(override: str) -> str:
    return override.lstrip("+~").split("=")[0]


def _is_of_the_search(name: str) -> bool:
    return any(name == setting or name.startswith(f"{setting}.") for setting in _OF_THE_SEARCH)
