"""A network of three convolutions whose every map can be seen, and a method's step without a trainer's loop."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skinkd.batch import Batch
from skinkd.methods.base import Method
from skinkd.models.backbone import Features

CLASSES = 5


class Staged(nn.Module):
    """Three stages of 16×16, 8×8 and 4×4, in float64."""

    num_classes = CLASSES
    stage_shapes = ((3, 16, 16), (4, 8, 8), (6, 4, 4))

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *(shape[0] for shape in self.stage_shapes)]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.classifier = nn.Linear(widths[-1], CLASSES)
        self.double()

    def features(self, image: Tensor) -> Features:
        stages, x = [], image.double()
        for conv in self.convs:
            x = F.softplus(conv(x))
            stages.append(x)
        pooled = x.mean(dim=(2, 3))
        return Features(stages=tuple(stages), pooled=pooled, logits=self.classifier(pooled))

    def forward(self, image: Tensor) -> Tensor:
        return self.features(image).logits


def protocol(loss_weights: dict[str, float], **changes: Any) -> dict[str, Any]:
    """What every method takes besides its own settings."""
    plain: dict[str, Any] = {
        "criterion": F.cross_entropy,
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        "schedule": lambda optimizer, epochs, steps_per_epoch: None,
        "loss_weights": loss_weights,
        "warmup_epochs": 0,
    }
    return plain | changes


def attach(method: Method, *, step: int = 0, epochs: int = 4, steps: int = 40) -> dict[str, Tensor]:
    """Stand in for a trainer at ``step`` of ``steps``; returns what the method logs, as it logs it."""
    method._trainer = SimpleNamespace(  # type: ignore[assignment]
        global_step=step, max_epochs=epochs, estimated_stepping_batches=steps, log_every_n_steps=1
    )
    logged: dict[str, Tensor] = {}
    method.log_dict = lambda values, **_: logged.update(values)  # type: ignore[method-assign]
    method.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
    return logged


def batch_of(size: int, *, views: int = 1, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(size, views, 3, 32, 32, generator=generator, dtype=torch.float64)
    label = torch.randint(CLASSES, (size,), generator=generator)
    return Batch(image=image, label=label, index=torch.arange(size))
