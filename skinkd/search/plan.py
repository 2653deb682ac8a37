"""From the configuration of a search to its study: the space, and how parameters become a run of ``skinkd.train``."""

import hashlib
import json
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from skinkd.build.teachers import find_teacher
from skinkd.config.identity import identity, run_path
from skinkd.config.names import check_names
from skinkd.config.overrides import CONF, check_overrides
from skinkd.config.resolve import resolved
from skinkd.errors import UserError, check_choice, check_positive
from skinkd.runs.tracking import check_tracker
from skinkd.search.space import override, parse_space
from skinkd.search.study import Search

_OF_THE_SEARCH = ("tune", "tune_space", "hydra", "evaluation.test")
_UNSEEN = "evaluation.test=false"


def plan_search(settings: DictConfig, given: list[str]) -> Search:
    """Return what :func:`skinkd.search.study.search` needs to know.

    Args:
        settings: the configuration of ``python -m skinkd.tune``.
        given: the overrides of its command line.

    Raises:
        UserError: a setting that does not fit a search, or a space that cannot be searched.
    """
    return _plan(settings, [one for one in given if not _is_of_the_search(_name(one))])


def _plan(settings: DictConfig, base: list[str]) -> Search:
    options: dict[str, Any] = OmegaConf.to_container(settings.tune, resolve=True)  # type: ignore[assignment]
    _check_options(options)
    check_names({"tune": options})
    plain = _composed(base)
    config = resolved(plain)
    check_tracker(config["logger"])
    where, given = _given_space(settings, config)
    space = parse_space(given, _values(plain, list(given or {})), where=where)
    _check_settings(base, space, where)
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
    fixed = [one for one in base if _name(one) not in space]
    if _has_one_teacher(config, space):
        teacher = find_teacher(_composed([*base, _UNSEEN])).parent.parent
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
        run_folder=lambda parameters: run_path(resolved(_composed([*overrides(parameters), *extra]))),
    )


def _given_space(settings: DictConfig, config: dict[str, Any]) -> tuple[str, Any]:
    """The search space and its name in messages: ``tune.space`` if it is given, else that of ``tune_space``."""
    if settings.tune.space is not None:
        return "tune.space", OmegaConf.to_container(settings.tune.space)
    if settings.get("tune_space") is None:
        raise UserError(
            f"method={config['method']['name']} has no tune_space of its own; give tune_space=<another method's>, or "
            "tune.space='{optim.lr: {low: 1e-3, high: 0.3, log: true}}'"
        )
    return "tune_space", OmegaConf.to_container(settings.tune_space)


def _has_one_teacher(config: dict[str, Any], space: dict[str, Any]) -> bool:
    """Whether a teacher is trained first, as configured, for all trials: it would follow the student's optim.lr else."""
    searched = any(name == "method" or name.startswith("method.teacher") for name in space)
    return "teacher" in config["method"] and config["method"]["teacher"]["ckpt"] == "auto" and not searched


def _check_options(options: dict[str, Any]) -> None:
    for name in ("trials", "max_failures", "poll_seconds", "stop_seconds"):
        check_positive(f"tune.{name}", options[name])
    check_choice("tune.sampler.name", options["sampler"]["name"], ("tpe", "random"))
    check_choice("tune.pruner.name", options["pruner"]["name"], ("median", "hyperband", "none"))
    check_positive("tune.pruner.min_epochs", options["pruner"]["min_epochs"])
    if not options["pruner"]["reduction_factor"] >= 2:
        raise UserError(f"tune.pruner.reduction_factor={options['pruner']['reduction_factor']} must be at least 2")


def _check_settings(base: list[str], space: dict[str, Any], where: str) -> None:
    """Compose a configuration with the first value of each setting, one with the second, …: all must be valid."""
    values = {
        name: list(one.choices) if hasattr(one, "choices") else [one.low, one.high] for name, one in space.items()
    }
    for number in range(max(map(len, values.values()))):
        chosen = [override(name, every[min(number, len(every) - 1)]) for name, every in values.items()]
        try:
            check_overrides("train", [*(one for one in base if _name(one) not in space), *chosen])
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def _values(plain: DictConfig, names: list[str]) -> dict[str, Any]:
    """What these settings are without the search."""
    return {name: OmegaConf.select(plain, name) for name in names}


def _composed(overrides: list[str]) -> DictConfig:
    with initialize_config_module(version_base="1.3", config_module=CONF):
        return compose("train", overrides=overrides)


def _name(override: str) -> str:
    return override.lstrip("+~").split("=")[0]


def _is_of_the_search(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in _OF_THE_SEARCH)
