"""Checks a search space and turns it into Optuna's distributions.

``{optim.lr: {low: 1e-3, high: 0.3, log: true}, method.temperature: [1, 2, 3, 4], augment: [basic, rga]}``: each
setting or group has a range or a list of choices.
"""

import re
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from skinkd.config.quoting import quoted
from skinkd.errors import UserError, nearest

_WORD = re.compile(r"[A-Za-z_/][\w./-]*")
_NO_WORDS = ("null", "true", "false", "nan", "inf")  # Hydra reads them as values, in any case
RANGE = ("low", "high", "log", "step")
# settings that decide which images are scored and how, so that trials could not be compared, or that change no number
_NOT_SEARCHED = (
    *("config", "force", "group", "job_type", "run_dir", "sweep", "experiment", "tune", "tune_space"),
    *("paths", "logger", "strategy", "seed", "protocol", "evaluation", "monitor", "data"),
)
_SEARCHED = ("data.image_size", "data.batch_size", "method.teacher.ckpt")


def parse_space(space: Any, defaults: Mapping[str, Any], *, where: str) -> dict[str, BaseDistribution]:
    """Return a distribution for each setting of the space, in its order.

    Args:
        space: setting -> ``{low, high, log, step}`` or a list of choices. A range between whole numbers holds only whole
            numbers, unless the setting's default is a float.
        defaults: the value of each setting without the search, if it has one.
        where: the name of the space in messages.

    Raises:
        UserError: the space is empty, a setting must not be searched, or a range or list is not valid.
    """
    if not isinstance(space, Mapping) or not space:
        raise UserError(
            f"{where}={space} holds no setting to search; write {{<setting>: {{low: …, high: …}}}} or {{<setting>: [a, b]}}"
        )
    return {name: _distribution(f"{where}: {name}", name, given, defaults.get(name)) for name, given in space.items()}


def override(name: str, value: Any) -> str:
    """Return Hydra's override that sets ``name`` to exactly ``value``."""
    if value is None:
        return f"{name}=null"
    if isinstance(value, bool):
        return f"{name}={str(value).lower()}"
    if isinstance(value, str) and (not _WORD.fullmatch(value) or value.lower() in _NO_WORDS):
        return f"{name}={quoted(value)}"
    return f"{name}={value}"


def _distribution(title: str, name: str, given: Any, default: Any) -> BaseDistribution:
    top = name.split(".")[0]
    if top in _NOT_SEARCHED and name not in _SEARCHED:
        raise UserError(
            f"{title} must not be searched: it changes what is measured or where, not the method; leave it out"
        )
    if isinstance(given, Mapping):
        return _range(title, given, default)
    if isinstance(given, list):
        return _choices(title, given)
    raise UserError(
        f"{title}={given} is neither a range, {{low: 1e-3, high: 0.3, log: true}}, nor a list of choices, [1, 2]"
    )


def _range(title: str, given: Mapping[str, Any], default: Any) -> BaseDistribution:
    for key in given:
        if key not in RANGE:
            raise UserError(f"{title} has {key!r}, which is not a key of a range{nearest(str(key), RANGE)}")
    for key in ("low", "high"):
        if key not in given:
            raise UserError(
                f"{title} has no {key}; a range needs low and high, such as {{low: 1e-3, high: 0.3, log: true}}"
            )
    numbers: dict[str, Any] = {key: given[key] for key in ("low", "high", "step") if given.get(key) is not None}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
            raise UserError(f"{title}.{key}={value} must be a number")
    low, high, step, log = given["low"], given["high"], given.get("step"), given.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"{title}.log={log} must be true or false")
    if not low < high:
        raise UserError(f"{title}: low={low} must be below high={high}")
    if log and not low > 0:
        raise UserError(f"{title}: low={low} must be above 0 on a logarithmic scale; raise it, or leave log out")
    if step is not None and log:
        raise UserError(
            f"{title} has a step={step} and log=true; a logarithmic range has no steps, leave one of them out"
        )
    if step is not None and not 0 < step <= high - low:
        raise UserError(f"{title}.step={step} must be above 0 and at most high - low = {high - low:g}")
    if all(isinstance(value, int) for value in numbers.values()) and not isinstance(default, float):
        return IntDistribution(low, high, log=log, step=1 if step is None else step)
    if isinstance(default, int) and not isinstance(default, bool):
        raise UserError(
            f"{title} is a whole number ({default}), but low={low}, high={high}, step={step} are not all whole"
        )
    return FloatDistribution(low, high, log=log, step=step)


def _choices(title: str, given: list[Any]) -> BaseDistribution:
    for value in given:
        if not (value is None or isinstance(value, bool | int | float | str)):
            raise UserError(f"{title} has the choice {value}; a choice is a number, a word, true, false or null")
    if len({(type(value), value) for value in given}) < max(2, len(given)):
        raise UserError(f"{title}={given} needs at least two choices, each once")
    return CategoricalDistribution(given)
