"""Every number of the configuration has a range, and a value outside it is one sentence before any data is read."""

import copy
import math
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_module

from skinkd.config.ranges import RANGES, Devices, Part, Range, check_ranges, check_value, range_of
from skinkd.config.resolve import resolved
from skinkd.errors import UserError

CONF = Path(str(files("skinkd.conf")))
NOT_SETTINGS = ("hydra", "class_map", "tune_space", "sweep")
# arguments that albumentations and timm check
FREE = ("augment.train", "backbone.options")


def numbers(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from numbers(value, f"{name}.{key}" if name else key)
    elif isinstance(node, list) or (isinstance(node, int | float) and not isinstance(node, bool)):
        listed = node if isinstance(node, list) else [node]
        if listed and all(isinstance(value, int | float) and not isinstance(value, bool) for value in listed):
            yield name.removeprefix("method.teacher.run."), node


def of_a_file(path: Path) -> Iterator[tuple[str, Any]]:
    """The numbers of a file of conf/, by their dotted names in the configuration."""
    text, parts = path.read_text(), path.relative_to(CONF).parts
    group = "" if len(parts) == 1 or parts[0] == "experiment" or "@package _global_" in text else parts[0]
    where = {"strategy": "trainer", "precision": "trainer", "teacher": ""}.get(group, group)
    values = yaml.safe_load(text) or {}
    return numbers(values.get("run", {}) if group == "teacher" else values, where)


def test_every_number_in_conf_has_a_range_and_is_in_it() -> None:
    found = set()
    for path in CONF.rglob("*.yaml"):
        if path.relative_to(CONF).parts[0] in NOT_SETTINGS:
            continue
        for name, value in of_a_file(path):
            if not name.startswith((*FREE, "hydra")):
                allowed = range_of(name)
                assert allowed is not None, f"{name}={value} in {path} has no range"
                assert value in allowed, f"{name}={value} in {path} is not {allowed}"
                found.add(name)
    assert len(found) > 80  # a reader that finds nothing would let everything pass


@pytest.mark.parametrize("name", RANGES)
def test_no_range_takes_what_is_no_number(name: str) -> None:
    setting = name.replace("*", "x")
    for value in (math.nan, math.inf, -math.inf, "1", True, {"a": 1}):
        with pytest.raises(UserError, match="is out of range; it must be"):
            check_value(setting, value)


def outside(allowed: Range) -> list[Any]:
    if isinstance(allowed, Part):
        return [0, -1, 0.0, 1.5, -0.1, None]
    if isinstance(allowed, Devices):
        return [0, -2, 1.5, [], [1, 1], [-1], ["a"], None]
    values: list[Any] = [] if allowed.null else [None]
    if allowed.low > -math.inf:
        values += [allowed.low - 1, *([allowed.low] if allowed.above else [])]
    if allowed.high < math.inf:
        values += [allowed.high + 1, *([allowed.high] if allowed.below else [])]
    return values + ([allowed.low + 1.5] if allowed.whole and allowed.low > -math.inf else [])


@pytest.mark.parametrize("name", RANGES)
def test_both_ends_of_every_range_hold(name: str) -> None:
    setting, allowed = name.replace("*", "x"), RANGES[name]
    for value in outside(allowed):
        with pytest.raises(UserError, match="is out of range"):
            check_value(setting, value)
        if not isinstance(allowed, Devices):
            with pytest.raises(UserError, match="is out of range"):
                check_value(setting, [value] if not isinstance(allowed, Part) else value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("evaluation.interval", 95, "evaluation.interval=95 is out of range; it must be a number above 0 and below 1"),
        ("evaluation.bootstrap_replicates", 0, "it must be a whole number between 1 and 1000000"),
        ("ema.decay", 1.0, "ema.decay=1.0 is out of range; it must be a number of at least 0 and below 1 or null"),
        ("optim.lr", 0, "optim.lr=0 is out of range; it must be a number above 0"),
        ("data.near_duplicate_bits", 257, "it must be a whole number between 0 and 256 or null"),
        ("data.num_workers", 100_000, "it must be a whole number between 0 and 256"),
        ("trainer.devices", 1000, "it must be a number of devices between 1 and 256"),
        ("trainer.limit_train_batches", 0, "it must be a share above 0 up to 1.0, or a whole number of batches"),
        ("method.loss_weights.ce", -1, "method.loss_weights.ce=-1 is out of range; it must be a number of at least 0"),
    ],
)
def test_the_sentence_names_setting_value_and_range(name: str, value: Any, words: str) -> None:
    with pytest.raises(UserError) as told:
        check_value(name, value)
    assert words in str(told.value)


@pytest.fixture(scope="module")
def composed() -> Any:
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        return compose("train", overrides=["method=kd", "data=folder", "data.root=/nowhere", "logger=none"])


BAD = {
    "evaluation.calibration_bins": 0,
    "evaluation.early_exit_thresholds": [0.5, -1],
    "seed": 2**32,
    "ema.decay": 1.5,
    "trainer.devices": 0,
    "trainer.max_epochs": 0,
    "early_stopping.patience": -1,
    "optim.optimizer.momentum": 1.5,
    "method.temperature": 0,
}


def test_a_run_is_refused_before_its_data_is_looked_for(composed: Any, tmp_path: Path) -> None:
    """``data.root`` does not exist: whoever looks for it would complain of that."""
    from omegaconf import OmegaConf

    from skinkd.train import train

    for name, value in BAD.items():
        settings = copy.deepcopy(composed)
        OmegaConf.update(settings, "paths.output_dir", str(tmp_path))
        OmegaConf.update(settings, name, value)
        with pytest.raises(UserError) as told:
            train(settings)
        assert str(told.value).startswith(f"{name}={value} is out of range")
    assert not list(tmp_path.iterdir())


def test_the_recipe_of_a_teacher_is_checked_as_the_teachers_run(composed: Any) -> None:
    from omegaconf import OmegaConf

    settings = copy.deepcopy(composed)
    OmegaConf.update(settings, "method.teacher.run.trainer.max_epochs", 0, force_add=True)
    with pytest.raises(UserError, match=r"the teacher's run \(method.teacher.run\): trainer.max_epochs=0 is out of"):
        resolved(settings)


def test_arguments_of_other_packages_have_no_range() -> None:
    mine = {"method": {"_target_": "mine.Method", "temperature": -1}}
    check_ranges(mine)
    with pytest.raises(UserError, match=r"method\.temperature"):
        check_ranges({"method": mine["method"] | {"_target_": "skinkd.methods.kd.KD"}})


def test_a_stored_configuration_may_lack_settings() -> None:
    check_ranges({"seed": 0})
