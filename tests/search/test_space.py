"""Search spaces: what is accepted becomes the distribution it says, and everything else is refused in one sentence."""

from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from skinkd.errors import UserError
from skinkd.search.plan import _check_settings, _values
from skinkd.search.space import override, parse_space


@pytest.mark.parametrize(
    ("given_range", "default", "expected"),
    [
        ({"low": 1e-3, "high": 0.3, "log": True}, 0.1, FloatDistribution(1e-3, 0.3, log=True)),
        ({"low": 0.0, "high": 1.0, "step": 0.25}, 0.5, FloatDistribution(0.0, 1.0, step=0.25)),
        ({"low": 1, "high": 8}, 4, IntDistribution(1, 8)),
        ({"low": 1, "high": 8, "log": True}, None, IntDistribution(1, 8, log=True)),
        ({"low": 16, "high": 64, "step": 16, "log": False}, 32, IntDistribution(16, 64, step=16)),
        ({"low": 1, "high": 10}, 4.0, FloatDistribution(1.0, 10.0)),  # whole bounds, but of a float
        ([1, 2, 4], 4.0, CategoricalDistribution([1, 2, 4])),
        (["basic", None, True, 1], "basic", CategoricalDistribution(["basic", None, True, 1])),
    ],
)
def test_what_is_said_is_what_is_searched(given_range: Any, default: Any, expected: Any) -> None:
    parsed = parse_space({"method.x": given_range}, {"method.x": default}, where="tune.space")
    assert parsed == {"method.x": expected}


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (None, "holds no setting"),
        ({}, "holds no setting"),
        ({"optim.lr": 0.1}, "optim.lr=0.1 is neither a range"),
        ({"optim.lr": {"low": 0.1}}, "optim.lr has no high"),
        ({"optim.lr": {"low": 0.1, "hihg": 1}}, "'hihg', .*did you mean 'high'"),
        ({"optim.lr": {"low": 0.1, "high": 0.1}}, "low=0.1 must be below high=0.1"),
        ({"optim.lr": {"low": 0, "high": 0.1, "log": True}}, "low=0 must be above 0"),
        ({"optim.lr": {"low": "a", "high": 0.1}}, "low=a must be a number"),
        ({"optim.lr": {"low": True, "high": 2}}, "low=True must be a number"),
        ({"optim.lr": {"low": 0.1, "high": float("inf")}}, "high=inf must be a number"),
        ({"optim.lr": {"low": 0.1, "high": float("nan")}}, "high=nan must be a number"),
        ({"optim.lr": {"low": 0.1, "high": 1, "log": 1}}, "log=1 must be true or false"),
        ({"optim.lr": {"low": 0.1, "high": 1, "step": 0.1, "log": True}}, "step=0.1 and log=true"),
        ({"optim.lr": {"low": 0.1, "high": 1, "step": 2}}, "step=2 must be above 0"),
        ({"optim.lr": {"low": 0.1, "high": 1, "step": 0}}, "step=0 must be above 0"),
        ({"method.stage": {"low": 1.5, "high": 3}}, r"whole number \(2\)"),
        ({"augment": ["basic"]}, "at least two"),
        ({"augment": ["basic", "rga", "basic"]}, "each once"),
        ({"backbone.head_widths": [[256], [128]]}, r"the choice \[256\]"),
        ({"seed": [0, 1]}, "seed must not be searched"),
        ({"data.split_seed": [0, 1]}, "data.split_seed must not be searched"),
        ({"evaluation.test": [True, False]}, "evaluation.test must not be searched"),
        ({"data": ["ham10000", "synthetic"]}, "data must not be searched"),
    ],
)
def test_what_makes_no_sense_is_refused(space: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        parse_space(space, {"method.stage": 2, "optim.lr": 0.1}, where="tune.space")
    assert str(caught.value).startswith("tune.space") and "\n" not in str(caught.value)


@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        # a backslash before a quote or at the end is more than Hydra's grammar can carry unchanged
        st.text(
            st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs"), exclude_characters="\\"), min_size=1
        ),
    )
)
def test_hydra_reads_back_the_very_value(value: Any) -> None:
    (parsed,) = OverridesParser.create().parse_overrides([override("method.x", value)])
    assert parsed.key_or_group == "method.x"
    assert parsed.value() == value and type(parsed.value()) in (type(value), type(None), _quoted(value))


def _quoted(value: Any) -> type:
    from hydra.core.override_parser.types import QuotedString

    return QuotedString if isinstance(value, str) else type(value)


def spaces() -> list[str]:
    from importlib.resources import files

    return sorted(file.name.removesuffix(".yaml") for file in (files("skinkd.conf") / "tune_space").iterdir())


@pytest.mark.parametrize("method", [name for name in spaces() if not name.startswith("lite_study_")])
def test_the_space_of_each_method_is_chosen_by_it_and_valid(method: str) -> None:
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        settings = plain = compose("tune", overrides=[f"method={method}"])  # it has all settings of train
    given_space = OmegaConf.to_container(settings.tune_space)
    assert isinstance(given_space, dict) and "optim.lr" in given_space
    space = parse_space(given_space, _values(plain, list(given_space)), where="tune_space")
    _check_settings([f"method={method}"], space, "tune_space")
    for name, one in space.items():
        if isinstance(one, FloatDistribution):  # what is set without a search is among what is searched
            assert one.low <= OmegaConf.select(plain, name) <= one.high, name


def test_a_method_without_a_space_has_none() -> None:
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        assert compose("tune", overrides=["method=mskd_teacher"]).get("tune_space") is None


def test_an_unknown_setting_names_the_nearest() -> None:
    space = parse_space({"optim.lrr": {"low": 0.1, "high": 1.0}}, {}, where="tune.space")
    with pytest.raises(UserError, match=r"^tune.space: optim.lrr is not a setting; did you mean 'lr'|'optim.lr'"):
        _check_settings([], space, "tune.space")
    space = parse_space({"augment": ["basic", "rgaa"]}, {}, where="tune.space")
    with pytest.raises(UserError, match=r"^tune.space: augment=rgaa is not a choice; did you mean 'rga'"):
        _check_settings([], space, "tune.space")
    space = parse_space({"optim.lr": [0.1, "fast"]}, {}, where="tune.space")
    with pytest.raises(UserError, match=r"^tune.space: optim.lr=fast must be a number"):
        _check_settings([], space, "tune.space")
