"""The protocol that all methods share: terms, weights, ramp, and what a checkpoint says of itself."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from staged import Staged, attach, batch_of, protocol
from torch.nn import functional as F
from world import make_method

from skinkd.errors import UserError
from skinkd.methods.ps_kd import PSKD
from skinkd.methods.supervised import Supervised
from skinkd.methods.tsskd import TSSKD


def tsskd(loss_weights: dict[str, float] | None = None, **changes: object) -> TSSKD:
    weights = {"ce": 1.0, "kd": 2.0} | (loss_weights or {})
    return TSSKD(Staged(), temperature=4, ratio=0.1, **protocol(weights, **changes))  # type: ignore[arg-type]


def test_supervised_is_cross_entropy() -> None:
    method = Supervised(Staged(), **protocol({"ce": 3.0}))  # type: ignore[arg-type]
    batch, logged = batch_of(5), attach(method)
    loss = method.training_step(batch, 0)
    expected = F.cross_entropy(method.network(batch.image[:, 0]), batch.label)
    torch.testing.assert_close(logged["train/ce"], expected)
    torch.testing.assert_close(loss, 3 * expected)
    assert not logged["train/ce"].requires_grad


def test_terms_are_summed_by_weight_and_logged_without() -> None:
    method = tsskd({"kd": 0.25})
    logged = attach(method)
    loss = method.combine(ce=lambda: torch.tensor(1.0), kd=lambda: torch.tensor(8.0))
    assert loss.item() == 3.0
    assert {name: value.item() for name, value in logged.items()} == {
        "train/ce": 1.0,
        "train/kd": 8.0,
        "train/loss": 3.0,
    }
    assert method.terms.means() == {"ce": 1.0, "kd": 8.0, "loss": 3.0}


@pytest.mark.parametrize("terms", [(), ("ce",), ("ce", "kd", "more"), ("kd",), ("ce", "kdd")])
def test_a_step_must_give_the_terms_of_its_method(terms: tuple[str, ...]) -> None:
    method = tsskd()
    attach(method)
    with pytest.raises(UserError, match="and its term_names are"):
        method.combine(**{name: lambda: torch.tensor(1.0) for name in terms})


def test_cross_entropy_can_be_switched_off_too() -> None:
    method = tsskd({"ce": 0.0})
    logged = attach(method)
    method.training_step(batch_of(4, views=2), 0)
    assert set(logged) == {"train/kd", "train/loss"}


@pytest.mark.parametrize("off", ["ce", "kd"])
def test_a_term_switched_off_is_not_computed(off: str) -> None:
    method, computed = tsskd({off: 0.0}), []
    logged = attach(method)

    def term(name: str, value: float) -> torch.Tensor:
        computed.append(name)
        return torch.tensor(value)

    loss = method.combine(kd=lambda: term("kd", 3.0), ce=lambda: term("ce", 5.0))
    (on,) = {"ce", "kd"} - {off}
    assert computed == [on]
    assert loss.item() == {"ce": 5.0, "kd": 6.0}[on]
    assert set(logged) == {f"train/{on}", "train/loss"}


def test_terms_are_computed_in_the_order_of_the_step() -> None:
    """Terms share networks in train mode, whose dropout and BatchNorm depend on it."""
    method, computed = tsskd(), []
    attach(method)

    def term(name: str) -> torch.Tensor:
        computed.append(name)
        return torch.tensor(1.0)

    method.combine(kd=lambda: term("kd"), ce=lambda: term("ce"))
    method.combine(ce=lambda: term("ce"), kd=lambda: term("kd"))
    assert computed == ["kd", "ce", "ce", "kd"]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"ce": 1.0, "kd": 1.0, "kdd": 1.0}, r"method.loss_weights.kdd is not a loss term .* 'kd'"),
        ({"ce": -1.0, "kd": 1.0}, r"method.loss_weights.ce=-1.0 is negative"),
        ({"ce": 1.0}, r"no weight for kd; use 0"),
        ({"ce": 0.0, "kd": 0.0}, r"method.loss_weights are all 0"),
    ],
)
def test_wrong_weights_are_refused(weights: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        TSSKD(Staged(), temperature=4, ratio=0.1, **protocol(weights))  # type: ignore[arg-type]


def test_a_negative_warm_up_is_refused() -> None:
    with pytest.raises(UserError, match=r"method.warmup_epochs=-1 is negative"):
        tsskd(warmup_epochs=-1)


@pytest.mark.parametrize(
    ("warmup", "step", "ramp"),
    [(0, 0, 1.0), (2, 0, 0.0), (2, 5, 0.25), (2, 20, 1.0), (2, 39, 1.0), (0.5, 1, 0.2), (8, 40, 0.5)],
)
def test_the_ramp_rises_linearly_over_the_warm_up_and_spares_cross_entropy(
    warmup: float, step: int, ramp: float
) -> None:
    """Ten steps an epoch."""
    method = tsskd(warmup_epochs=warmup)
    attach(method, step=step, epochs=4, steps=40)
    loss = method.combine(ce=lambda: torch.tensor(1.0), kd=lambda: torch.tensor(8.0))
    assert loss.item() == pytest.approx(1.0 + ramp * 2.0 * 8.0)


def test_the_ramp_of_a_whole_run(trained: Callable[..., Path]) -> None:
    """Through the trainer: 5 steps an epoch, one epoch of warm-up of two; the logged terms are unweighted."""
    folder = trained(
        "method=tsskd",
        "method.warmup_epochs=1",
        "method.loss_weights.kd=0.5",
        "evaluation.test=false",
        "logger=csv",
        "trainer.log_every_n_steps=1",
    )
    with (folder / "csv" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [int(row["step"]) for row in rows] == list(range(10))
    for row in rows:
        ramp = min(int(row["step"]) / 5, 1)
        expected = float(row["train/ce"]) + ramp * 0.5 * float(row["train/kd"])
        assert float(row["train/loss"]) == pytest.approx(expected, rel=1e-5)


def test_frozen_parameters_are_not_given_to_the_optimizer() -> None:
    seen = []

    def optimizer(parameters: object) -> torch.optim.Optimizer:
        seen.extend(list(parameters))  # type: ignore[call-overload]
        return torch.optim.SGD(seen, lr=0.1)

    method = tsskd(optimizer=optimizer)
    method.network.convs[0].requires_grad_(False)  # type: ignore[union-attr,operator]
    attach(method)
    method.configure_optimizers()
    frozen = {id(parameter) for parameter in method.network.convs[0].parameters()}  # type: ignore[union-attr,operator]
    assert {id(p) for p in seen} == {id(p) for p in method.parameters()} - frozen


def test_a_method_that_takes_labels_of_images_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PSKD, "keeps_memory", False)
    with pytest.raises(UserError, match=r"PSKD takes image_labels and does not say so; set keeps_memory = True"):
        make_method("ps_kd")
