"""Learning-rate schedules, as the configuration names them.

Each function takes ``(optimizer, *, epochs, steps_per_epoch, …)`` and returns Lightning's scheduler dictionary. The two
lengths come from the trainer; everything else is a value of ``conf/optim/``.
"""

import math
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim import lr_scheduler as lr

Schedule = dict[str, Any]


def _per_epoch(scheduler: Any, **extra: Any) -> Schedule:
    return {"scheduler": scheduler, "interval": "epoch", **extra}


def constant(optimizer: Optimizer, *, epochs: int, steps_per_epoch: int) -> Schedule:
    """Keep the learning rate."""
    return _per_epoch(lr.ConstantLR(optimizer, factor=1.0))


def one_cycle(optimizer: Optimizer, *, epochs: int, steps_per_epoch: int, warmup_fraction: float) -> Schedule:
    """One cosine cycle up to the optimizer's learning rate and down to almost zero, step by step.

    Source: Smith and Topin, "Super-convergence" (2019), in PyTorch's cosine form; momentum stays fixed.
    """
    total = max(epochs * steps_per_epoch, 1)
    if math.isclose(warmup_fraction * total, 1):
        warmup_fraction *= 1 + 1e-6  # PyTorch divides by the number of rising steps minus 1
    scheduler = lr.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total,
        pct_start=warmup_fraction,
        cycle_momentum=False,
    )
    return {"scheduler": scheduler, "interval": "step"}


def cosine(optimizer: Optimizer, *, epochs: int, steps_per_epoch: int, warmup_fraction: float) -> Schedule:
    """Linear warm-up from 1 % for ``warmup_fraction`` of the steps, then a half cosine to zero, step by step."""
    total = max(epochs * steps_per_epoch, 1)
    warmup = int(warmup_fraction * total)
    down = lr.CosineAnnealingLR(optimizer, T_max=max(total - warmup, 1))
    if warmup == 0:
        return {"scheduler": down, "interval": "step"}
    up = lr.LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
    return {"scheduler": lr.SequentialLR(optimizer, [up, down], milestones=[warmup]), "interval": "step"}


def multistep(optimizer: Optimizer, *, epochs: int, steps_per_epoch: int, at: list[float], factor: float) -> Schedule:
    """Multiply the learning rate by ``factor`` at each of the given fractions of training (``at: [0.5, 0.75]``)."""
    milestones = [round(fraction * epochs) for fraction in at]
    return _per_epoch(lr.MultiStepLR(optimizer, milestones=milestones, gamma=factor))


def plateau(
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    monitor: str,
    mode: Literal["min", "max"],
    factor: float,
    patience: int,
    min_lr: float,
) -> Schedule:
    """Multiply by ``factor`` after ``patience`` epochs without a better ``monitor``, never below ``min_lr``."""
    scheduler = lr.ReduceLROnPlateau(optimizer, mode=mode, factor=factor, patience=patience, min_lr=min_lr)
    return _per_epoch(scheduler, monitor=monitor)


def stepped_polynomial(
    optimizer: Optimizer, *, epochs: int, steps_per_epoch: int, power: float, every: int
) -> Schedule:
    """Polynomial decay that is updated every ``every`` epochs only: lr·(1 − e/E)^power at e = 0, every, 2·every, …

    Source: the published TSS-KD code (Liu et al., Neurocomputing 638:130115, 2025).
    """

    def factor(epoch: int) -> float:
        return (1 - (epoch // every) * every / epochs) ** power

    return _per_epoch(lr.LambdaLR(optimizer, factor))
