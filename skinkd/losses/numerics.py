"""Arithmetic that the losses share: float32 or wider, and unit vectors with a finite gradient at zero."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
Result = TypeVar("Result")


def at_least_float32(loss: Callable[P, Result]) -> Callable[P, Result]:
    """Make ``loss`` compute in float32 or wider, whatever the precision of the forward pass.

    bf16 and fp16 tensors are widened, float32 and float64 stay as they are. Autocast is turned off inside,
    because it would narrow the matrix products of float32 tensors again.
    """

    @wraps(loss)
    def widened(*args: P.args, **kwargs: P.kwargs) -> Result:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        with torch.autocast(device_type=tensors[0].device.type, enabled=False):
            return loss(*map(_widen, args), **{name: _widen(value) for name, value in kwargs.items()})  # type: ignore[arg-type]

    return widened


def _widen(value: object) -> object:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value


def unit(vectors: Tensor) -> Tensor:
    """Divide (..., D) vectors by their Euclidean length; a zero vector stays zero, with a finite gradient."""
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / torch.where(length > 0, length, 1.0)
