"""The optimizer of a run: when PyTorch updates all parameters in one kernel, and with which momentum it begins."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from skinkd.build.objects import begin_momentum, fused_on_cuda

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)


def left_out_then_taken(optimizer: Any, parameter: nn.Parameter, gradient: torch.Tensor) -> None:
    """A step whose gradients overflow, as the loss scaling of fp16 tells the optimizer, then two that do not."""
    optimizer.grad_scale = torch.tensor(1.0)
    for overflows in (1.0, 0.0, 0.0):
        optimizer.found_inf = torch.tensor(overflows)
        parameter.grad = gradient * (torch.inf if overflows else 1)
        optimizer.step()


def test_a_first_step_that_overflows_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    start, gradient = torch.randn(100), torch.randn(100)
    plain, fused, begun = (nn.Parameter(start.clone()) for _ in range(3))
    expected = SGD([plain])
    for _ in range(2):
        plain.grad = gradient
        expected.step()
    optimizer = SGD([begun], fused=True)
    begin_momentum(optimizer)
    left_out_then_taken(optimizer, begun, gradient)
    torch.testing.assert_close(begun, plain)
    # PyTorch's own, without the remedy; memory that nothing was written to is NaN here
    monkeypatch.setattr(torch, "empty_like", lambda tensor: torch.full_like(tensor, torch.nan))
    left_out_then_taken(SGD([fused], fused=True), fused, gradient)
    assert fused.isnan().all()


def test_momentum_that_begins_at_zero_changes_no_digit() -> None:
    start = torch.randn(100)
    parameters = [nn.Parameter(start.clone()) for _ in range(2)]
    optimizers = [SGD([parameter], fused=True) for parameter in parameters]
    begin_momentum(optimizers[0])
    for _ in range(3):
        gradient = torch.randn(100)
        for parameter, optimizer in zip(parameters, optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    assert parameters[0].equal(parameters[1])


@pytest.mark.parametrize("make", [SGD, partial(torch.optim.AdamW, lr=0.1)])
def test_parameters_on_a_cpu_are_updated_one_by_one(make: Any) -> None:
    optimizer = fused_on_cuda(make, {"precision": "16-mixed", "gradient_clip_val": None})([nn.Parameter(torch.ones(3))])
    assert not optimizer.param_groups[0]["fused"] and not optimizer.state
