"""Single loss functions, forward and backward, by batch size and number of classes or channels."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from skinkd.losses.feature import (
    attention_map_distance,
    attention_transfer,
    channel_relation,
    hierarchical_context_loss,
)
from skinkd.losses.logit import class_temperature_kl, decoupled_kd, kl_divergence
from skinkd.losses.relational import inter_class_relation, rkd_angle, rkd_distance

from ..session import Bench, Section
from ..table import Column
from ..timing import milliseconds, peak_gib

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

OF_LOGITS: dict[str, Loss] = {
    "kl_divergence": lambda s, t, y: kl_divergence(s, t, temperature=4.0),
    "class_temperature_kl": lambda s, t, y: class_temperature_kl(s, t, y, temperature=4.0, ratio=0.1),
    "decoupled_kd": lambda s, t, y: decoupled_kd(s, t, y, alpha=1.0, beta=8.0, temperature=4.0),
    "inter_class_relation": lambda s, t, y: inter_class_relation(s, t, temperature=1.0),
}
OF_FEATURES: dict[str, Loss] = {
    "rkd_distance": lambda s, t, y: rkd_distance(s, t),
    "rkd_angle": lambda s, t, y: rkd_angle(s, t),
}
OF_MAPS: dict[str, Loss] = {
    "channel_relation": lambda s, t, y: channel_relation(s, t),
    "attention_map_distance": lambda s, t, y: attention_map_distance(s, t),
    "attention_transfer": lambda s, t, y: attention_transfer(s, t),
    "hierarchical_context_loss": lambda s, t, y: hierarchical_context_loss(s, t),
}
SHAPES: list[tuple[dict[str, Loss], list[tuple[int, ...]]]] = [
    (OF_LOGITS, [(7,), (1000,)]),
    (OF_FEATURES, [(512,), (2048,)]),
    (OF_MAPS, [(512, 7, 7), (2048, 2, 2)]),
]


def one(bench: Bench, loss: Loss, shape: tuple[int, ...], *, seconds: float) -> dict[str, Any]:
    """Milliseconds and memory of a loss and its gradient, for random tensors in float32."""
    torch.manual_seed(0)
    student, teacher = (torch.randn(shape, device=bench.device) for _ in range(2))
    label = torch.randint(shape[1], (shape[0],), device=bench.device)
    student.requires_grad_()

    def step() -> None:
        student.grad = None
        loss(student, teacher, label).backward()

    taken = bench.timer.in_turn({"loss": step}, seconds=seconds)["loss"]
    return {"ms": milliseconds(taken), "rounds": len(taken), "gib": peak_gib(step, bench.device)}


def measure(bench: Bench) -> None:
    """Each loss at its shapes."""
    batches = (8,) if bench.quick else (32, 128, 512)
    plan = [
        (name, loss, (batch, *rest))
        for losses, rests in SHAPES
        for name, loss in losses.items()
        for batch in batches
        for rest in rests[: 1 if bench.quick else None]
    ]
    for place, (name, loss, shape) in enumerate(plan):
        seconds = bench.share([1] * (len(plan) - place)) / 2
        shown = {"loss": name, "B": shape[0], "shape": " × ".join(map(str, shape[1:]))}
        bench.take(shown, partial(one, bench, loss, shape, seconds=seconds), needs=1)


SECTION = Section(
    title="Loss functions by batch size and width",
    explains="Forward and backward in float32. The width is the number of classes, of pooled features, or of channels, height "
    "and breadth.",
    columns=(
        Column("loss", "loss"),
        Column("B", "B"),
        Column("shape", "width"),
        Column("ms", "ms", 3),
        Column("gib", "GiB", 2),
    ),
    seconds=70,
    measure=measure,
)
