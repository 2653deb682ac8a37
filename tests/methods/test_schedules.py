"""Learning rates of whole trainings, as Lightning steps the schedulers, against closed forms and published numbers."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skinkd.methods import schedules

REFERENCE = Path(__file__).parents[1] / "reference"
LR = 0.1


def rates(
    schedule: Callable[..., dict[str, Any]], *, epochs: int, steps: int, lr: float = LR, **settings: Any
) -> list[float]:
    """The rate of each step; what is updated by epoch has the same rate throughout an epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    made = schedule(optimizer, epochs=epochs, steps_per_epoch=steps, **settings)
    found = []
    for _ in range(epochs):
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if made["interval"] == "step":
                made["scheduler"].step()
        if made["interval"] == "epoch":
            made["scheduler"].step()
    return found


@pytest.mark.parametrize("epochs", [100, 200])
def test_the_published_polynomial_decay(epochs: int) -> None:
    with np.load(REFERENCE / f"tsskd_poly_lr_{epochs}.npz") as data:
        expected, base, every, power = data["lr"], float(data["base_lr"]), int(data["step"]), float(data["power"])
    found = rates(schedules.stepped_polynomial, epochs=epochs, steps=1, lr=base, power=power, every=every)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("epochs", [1, 5, 10, 11, 25])
def test_polynomial_decay_stays_positive(epochs: int) -> None:
    found = rates(schedules.stepped_polynomial, epochs=epochs, steps=2, power=0.9, every=10)
    for index, rate in enumerate(found):
        done = (index // 2) // 10 * 10
        assert rate == pytest.approx(LR * (1 - done / epochs) ** 0.9)
    assert min(found) > 0


def test_constant() -> None:
    assert rates(schedules.constant, epochs=3, steps=2) == [LR] * 6


@pytest.mark.parametrize(("at", "drops"), [([0.5, 0.75], [10, 15]), ([0.1], [2])])
def test_multistep(at: list[float], drops: list[int]) -> None:
    found = rates(schedules.multistep, epochs=20, steps=1, at=at, factor=0.1)
    assert found == pytest.approx([LR * 0.1 ** sum(epoch >= drop for drop in drops) for epoch in range(20)])


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_cosine(fraction: float) -> None:
    total = 40
    warmup = int(fraction * total)
    found = rates(schedules.cosine, epochs=4, steps=10, warmup_fraction=fraction)
    for t, rate in enumerate(found):
        if t < warmup:
            expected = LR * (0.01 + 0.99 * t / warmup)
        else:
            expected = LR * (1 + math.cos(math.pi * (t - warmup) / (total - warmup))) / 2
        assert rate == pytest.approx(expected, rel=1e-6), t


@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_one_cycle(fraction: float) -> None:
    total = 50
    found = rates(schedules.one_cycle, epochs=5, steps=10, warmup_fraction=fraction)
    top = fraction * total - 1  # where PyTorch has the peak
    low, lowest = LR / 25, LR / 25 / 1e4

    def between(start: float, end: float, share: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    for t, rate in enumerate(found):
        expected = between(low, LR, t / top) if t <= top else between(LR, lowest, (t - top) / (total - 1 - top))
        assert rate == pytest.approx(expected, rel=1e-9), t


@pytest.mark.parametrize("total", range(1, 12))
def test_one_cycle_of_few_steps(total: int) -> None:
    """PyTorch divides by zero where the rise has just one step."""
    found = rates(schedules.one_cycle, epochs=1, steps=total, warmup_fraction=0.2)
    assert len(found) == total and all(0 < rate <= LR * (1 + 1e-9) for rate in found)


def test_plateau() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    made = schedules.plateau(
        optimizer, epochs=9, steps_per_epoch=1, monitor="val/loss", mode="min", factor=0.1, patience=2, min_lr=0.005
    )
    assert made["interval"] == "epoch" and made["monitor"] == "val/loss"
    found = []
    for loss in [1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8]:
        found.append(optimizer.param_groups[0]["lr"])
        made["scheduler"].step(loss)
    assert found == pytest.approx([LR] * 5 + [LR / 10] * 3 + [0.005])


@pytest.mark.parametrize(
    ("schedule", "settings"),
    [
        (schedules.one_cycle, {"warmup_fraction": 0.2}),
        (schedules.cosine, {"warmup_fraction": 0.1}),
        (schedules.multistep, {"at": [0.5], "factor": 0.1}),
        (schedules.stepped_polynomial, {"power": 0.9, "every": 10}),
    ],
)
def test_a_state_goes_on_where_it_was(schedule: Callable[..., dict[str, Any]], settings: dict[str, Any]) -> None:
    whole = rates(schedule, epochs=20, steps=1, **settings)

    def made() -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
        return optimizer, schedule(optimizer, epochs=20, steps_per_epoch=1, **settings)["scheduler"]

    optimizer, scheduler = made()
    for _ in range(12):
        optimizer.step()
        scheduler.step()
    states = optimizer.state_dict(), scheduler.state_dict()
    optimizer, scheduler = made()
    optimizer.load_state_dict(states[0])
    scheduler.load_state_dict(states[1])
    for expected in whole[12:]:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        scheduler.step()
