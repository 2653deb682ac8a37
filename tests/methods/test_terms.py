import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skinkd.errors import UserError
from skinkd.methods.terms import TermMeter, TrainingDivergedError

NAN, INF = float("nan"), float("inf")


def filled(**columns: list[float]) -> TermMeter:
    meter = TermMeter()
    for step, values in enumerate(zip(*columns.values(), strict=True)):
        meter.update(dict(zip(columns, map(torch.tensor, values), strict=True)), step + 10)
    return meter


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20))
def test_means(values: list[float]) -> None:
    meter = filled(ce=values, kd=[2 * value for value in values])
    mean = sum(values) / len(values)
    assert meter.means() == {
        "ce": pytest.approx(mean, rel=1e-4, abs=1e-3),
        "kd": pytest.approx(2 * mean, rel=1e-4, abs=1e-3),
    }
    meter.check()


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_the_first_bad_step_and_term_are_named(bad: float) -> None:
    meter = filled(ce=[1.0, 1.0, bad, 1.0], kd=[1.0, bad, bad, 1.0], loss=[1.0, bad, bad, bad])
    with pytest.raises(TrainingDivergedError, match="loss term 'kd' became NaN or infinite at training step 11; "):
        meter.check()
    assert issubclass(TrainingDivergedError, UserError)


def test_at_the_same_step_a_term_is_named_rather_than_the_sum_of_all() -> None:
    with pytest.raises(TrainingDivergedError, match="'lrb'"):
        filled(lrb=[NAN], loss=[NAN]).check()
    with pytest.raises(TrainingDivergedError, match="'rkd_angle'"):
        filled(rkd_angle=[NAN], loss=[NAN]).check()


def test_a_new_epoch_begins_empty() -> None:
    meter = filled(ce=[NAN])
    meter.reset()
    meter.check()
    assert meter.means() == {}
    meter.update({"kd": torch.tensor(3.0)}, 0)
    assert meter.means() == {"kd": 3.0}


def test_half_precision_is_summed_in_float32_and_keeps_no_graph() -> None:
    meter = TermMeter()
    leaf = torch.tensor(0.001, requires_grad=True)
    for step in range(1000):
        meter.update({"ce": (leaf * 1).to(torch.bfloat16)}, step)
    assert meter.means()["ce"] == pytest.approx(float(leaf.to(torch.bfloat16)), rel=1e-4)
    assert not meter._sum.requires_grad
