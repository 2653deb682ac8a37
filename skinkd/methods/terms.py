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

    Sums and steps stay on the device. Only ``check``, ``latest`` and ``means`` read them, which waits for the device.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sum = self._last = self._first_bad = torch.empty(0)  # a number for each name
        self._steps = 0

    def reset(self) -> None:
        """Begin an epoch."""
        self.__init__()  # type: ignore[misc]

    def update(self, terms: dict[str, Tensor], step: int) -> None:
        """Add the scalar ``terms`` of training step ``step``, which have the same names in all steps."""
        if not self._steps:
            self._names = tuple(terms)
        assert terms.keys() == set(self._names)
        # all terms together: on a GPU a step of a small network takes as long as it takes to launch its operations
        values = torch.stack([terms[name].detach().float() for name in self._names])
        if not self._steps:
            self._sum, self._first_bad = torch.zeros_like(values), torch.full_like(values, -1, dtype=torch.long)
        self._steps += 1
        self._last = values
        self._sum += values
        self._first_bad.masked_fill_(~values.isfinite() & (self._first_bad < 0), step)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far as plain numbers, which waits for the device."""
        return {
            "sum": dict(zip(self._names, self._sum.tolist(), strict=True)),
            "first_bad": dict(zip(self._names, self._first_bad.tolist(), strict=True)),
            "steps": self._steps,
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from saved sums, on a device."""
        self._names = tuple(state["sum"])
        self._sum = torch.tensor(list(state["sum"].values()), dtype=torch.float32, device=device)
        self._first_bad = torch.tensor(list(state["first_bad"].values()), dtype=torch.long, device=device)
        self._steps = state["steps"]

    def check(self) -> None:
        """Raise TrainingDivergedError, naming the term and the step, if a term was ever NaN or infinite."""
        first = zip(self._names, self._first_bad.tolist(), strict=True)
        bad = [(step, name == "loss", name) for name, step in first if step >= 0]
        if bad:
            step, _, name = min(bad)  # of several at one step, a term comes before the sum of all
            raise TrainingDivergedError(
                f"loss term '{name}' became NaN or infinite at training step {step}; the last good checkpoint is kept: "
                "lower optim.lr, set trainer.gradient_clip_val=1, give method.warmup_epochs a value, or use precision=fp32"
            )

    def latest(self) -> dict[str, float]:
        """Return each term at the last step of this process."""
        return dict(zip(self._names, self._last.tolist(), strict=False))  # a run that goes on has none yet

    def means(self) -> dict[str, float]:
        """Return the mean of each term over the epoch's steps, averaged over processes."""
        if not self._steps:
            return {}
        total = self._sum / self._steps
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(total)
            total /= dist.get_world_size()
        return dict(zip(self._names, total.tolist(), strict=True))


def total(terms: Iterable[Tensor]) -> Tensor:
    """The sum of scalar tensors, as Σ in an equation."""
    return torch.stack(list(terms)).sum()
