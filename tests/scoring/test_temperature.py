"""Temperature scaling against torch's L-BFGS and what is known of it."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_tables import make_table, names, random_logits
from scipy.special import softmax
from sklearn.metrics import log_loss

from skinkd.errors import UserError
from skinkd.scoring.metrics import evaluate
from skinkd.scoring.predictions import probability_columns
from skinkd.scoring.temperature import apply_temperature, fit_temperature, largest_change, scaled


def loss(table: pd.DataFrame, k: int) -> float:
    return evaluate(table, names(k), calibration_bins=10)["loss"]


@pytest.mark.parametrize(("n", "k", "seed"), [(50, 2, 0), (300, 7, 1), (2000, 3, 2)])
def test_the_temperature_is_torchs(n: int, k: int, seed: int) -> None:
    label, logits = random_logits(seed, n, k)
    inverse = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([inverse], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(inverse * torch.from_numpy(logits), torch.from_numpy(label))
        value.backward()
        return value

    optimiser.step(closure)
    got = fit_temperature(make_table(label, softmax(logits, axis=1)), names(k))
    assert got == pytest.approx(1 / inverse.item(), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.floats(0.3, 3))
def test_logits_times_a_number_give_its_temperature_again(seed: int, k: int, factor: float) -> None:
    label, logits = random_logits(seed, 120, k)
    plain, scaled = (make_table(label, softmax(logits * f, axis=1)) for f in (1, factor))
    first = fit_temperature(plain, names(k))
    if 0.05 < first < 20:
        assert fit_temperature(scaled, names(k)) == pytest.approx(first * factor, rel=1e-6)
        columns = probability_columns(names(k))
        one, two = (
            apply_temperature(table, names(k), fit_temperature(table, names(k)))[columns] for table in (plain, scaled)
        )
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 7), st.floats(-3, 6))
def test_on_its_own_table_it_never_hurts_and_predictions_stay(seed: int, n: int, k: int, signal: float) -> None:
    label, logits = random_logits(seed, n, k, signal)
    table = make_table(label, softmax(logits, axis=1))
    fitted = apply_temperature(table, names(k), fit_temperature(table, names(k)))
    assert loss(fitted, k) <= loss(table, k) + 1e-12
    probability = fitted[probability_columns(names(k))].to_numpy()
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-12)
    assert (fitted["prediction"] == table["prediction"]).all()
    best = probability.max(axis=1)
    assert (best == probability[np.arange(n), table["prediction"].str[1:].astype(int)]).all()


def test_calibrated_probabilities_need_no_temperature() -> None:
    rng = np.random.default_rng(0)
    p = softmax(1.5 * rng.normal(size=(40_000, 4)), axis=1)
    label = (rng.random((len(p), 1)) > p.cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(make_table(label, p), names(4)) == pytest.approx(1, abs=0.03)
    sharp = make_table(label, softmax(2.5 * np.log(p), axis=1))
    assert fit_temperature(sharp, names(4)) == pytest.approx(2.5, abs=0.08)


def test_a_temperature_of_one_changes_nothing_and_a_high_one_everything() -> None:
    label, logits = random_logits(3, 30, 5)
    table = make_table(label, softmax(logits, axis=1))
    columns = probability_columns(names(5))
    np.testing.assert_allclose(apply_temperature(table, names(5), 1.0)[columns], table[columns], rtol=1e-12)
    np.testing.assert_allclose(apply_temperature(table, names(5), 1e9)[columns], 0.2, rtol=1e-6)
    assert table[columns].to_numpy() == pytest.approx(softmax(logits, axis=1))  # the table given stays as it was


def test_what_has_no_temperature() -> None:
    right = make_table(np.array([0, 1]), np.array([[0.6, 0.4], [0.4, 0.6]]))
    wrong = make_table(np.array([1, 0]), np.array([[0.6, 0.4], [0.4, 0.6]]))
    flat = make_table(np.array([1, 0]), np.full((2, 2), 0.5))
    assert [fit_temperature(table, names(2)) for table in (right, wrong, flat)] == [0.01, 100, 1]


def test_probabilities_of_zero_stay_finite() -> None:
    label = np.array([1, *[0, 1] * 30])  # the first is wrong, and sure
    table = make_table(label, np.array([[1.0, 0], *[[1, 0], [0, 1]] * 30]))
    temperature = fit_temperature(table, names(2))
    assert 1 < temperature < 100
    fitted = apply_temperature(table, names(2), temperature)
    p = fitted[probability_columns(names(2))].to_numpy()
    assert np.isfinite(p).all() and (p > 0).all()
    assert log_loss(label, p) == pytest.approx(loss(fitted, 2), rel=1e-9)
    nearby = [loss(apply_temperature(table, names(2), temperature * f), 2) for f in (0.99, 1.01)]
    assert loss(fitted, 2) < min(nearby)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    table = make_table(np.array([0, 1]), np.full((2, 2), 0.5))
    with pytest.raises(UserError, match="temperature"):
        apply_temperature(table, names(2), temperature)


def test_the_largest_change_is_that_of_the_table() -> None:
    label, logits = random_logits(5, 40, 4)
    table = make_table(label, softmax(logits, axis=1))
    columns = probability_columns(names(4))
    assert largest_change(table, names(4), 1.0) == pytest.approx(0, abs=1e-12)
    after = apply_temperature(table, names(4), 3.0)
    assert largest_change(table, names(4), 3.0) == (after[columns] - table[columns]).abs().to_numpy().max() > 0.1
    np.testing.assert_array_equal(scaled(table[columns].to_numpy(), 3.0), after[columns])
