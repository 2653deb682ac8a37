"""Bookkeeping of the loss terms on the device, so that no training step waits for the host."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from skinkd.errors import UserError


class TrainingDivergedError(UserError):
    """A loss term became NaN or infinite."""


class TermMeter:
    """Sums each loss term over an epoch, and remembers the first step at which the term was not finite.

    Sums and steps stay on the device. Only ``check`` and ``means`` read them, which waits for the device.
    """

    def __init__(self) -> None:
        self._sum: dict[str, Tensor] = {}
        self._first_bad: dict[str, Tensor] = {}
        self._steps = 0

    def reset(self) -> None:
        """Begin an epoch."""
        self.__init__()  # type: ignore[misc]

    def update(self, terms: dict[str, Tensor], step: int) -> None:
        """Add the scalar ``terms`` of training step ``step``."""
        self._steps += 1
        for name, value in terms.items():
            value = value.detach().float()
            if name not in self._sum:
                self._sum[name] = torch.zeros_like(value)
                self._first_bad[name] = torch.full_like(value, -1, dtype=torch.long)
            self._sum[name] += value
            is_first_bad = ~value.isfinite() & (self._first_bad[name] < 0)
            self._first_bad[name].masked_fill_(is_first_bad, step)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far as plain numbers, which waits for the device."""
        return {
            "sum": {name: value.item() for name, value in self._sum.items()},
            "first_bad": {name: value.item() for name, value in self._first_bad.items()},
            "steps": self._steps,
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from saved sums, on a device."""
        self._sum = {name: torch.full((), value, device=device) for name, value in state["sum"].items()}
        self._first_bad = {name: torch.full((), step, device=device) for name, step in state["first_bad"].items()}
        self._steps = state["steps"]

    def check(self) -> None:
        """Raise TrainingDivergedError, naming the term and the step, if a term was ever NaN or infinite."""
        if not self._first_bad:
            return
        steps = torch.stack(list(self._first_bad.values())).tolist()
        bad = [(step, name == "loss", name) for name, step in zip(self._first_bad, steps, strict=True) if step >= 0]
        if bad:
            step, _, name = min(bad)  # of several at one step, a term comes before the sum of all
            raise TrainingDivergedError(
                f"loss term '{name}' became NaN or infinite at training step {step}; the last good checkpoint is kept: "
                "lower optim.lr, set trainer.gradient_clip_val=1, give method.warmup_epochs a value, or use precision=fp32"
            )

    def means(self) -> dict[str, float]:
        """Return the mean of each term over the epoch's steps, averaged over processes."""
        if not self._sum:
            return {}
        total = torch.stack(list(self._sum.values())) / self._steps
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total)
            total /= dist.get_world_size()
        return dict(zip(self._sum, total.tolist(), strict=True))


def total(terms: Iterable[Tensor]) -> Tensor:
    """The sum of scalar tensors, as Σ in an equation."""
    return torch.stack(list(terms)).sum()
