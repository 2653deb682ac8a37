"""Latency of the networks that are deployed, in PyTorch."""

from functools import partial
from typing import Any

import torch

from ..networks import configuration, network_of
from ..session import Bench, Section
from ..table import Column
from ..timing import milliseconds

PRESETS = ("resnet18", "resnet50", "mobilenetv2_100", "efficientnet_b0", "densenet121", "convnext_tiny", "vit_tiny")
PRESETS += ("mskd_student",)
BATCHES = (1, 32)
NEEDS = 5  # seconds of a row


def latency(bench: Bench, preset: str, size: int, *, seconds: float) -> dict[str, Any]:
    """Milliseconds of a batch of 1 and of 32 images, in turn, in eval mode, float32 and without gradients."""
    config = configuration(f"backbone={preset}", "data=synthetic", f"data.image_size={size}", *bench.overrides)
    network = network_of(config).to(bench.device).eval()
    images = {
        batch: torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=bench.device)
        for batch in BATCHES
    }
    with torch.inference_mode():
        steps = {str(batch): (lambda image=image: network(image)) for batch, image in images.items()}
        taken = bench.timer.in_turn(steps, seconds=seconds)
    one, many = (milliseconds(taken[str(batch)]) for batch in BATCHES)
    return {"one_ms": one, "many_ms": many, "rate": 1000 * BATCHES[1] / many}


def measure(bench: Bench) -> None:
    """The presets at 224 px."""
    presets, size = (PRESETS[:1], 64) if bench.quick else (PRESETS, 224)
    for place, preset in enumerate(presets):
        seconds = bench.share([NEEDS] * (len(presets) - place)) / 2
        one = partial(latency, bench, preset, size, seconds=seconds)
        bench.take({"network": preset, "size": size}, one, needs=NEEDS)


SECTION = Section(
    title="Latency of deployed networks in PyTorch",
    explains="In float32. Untrained networks are as fast as trained ones. Exported networks: benchmarks/export_bench.py.",
    columns=(
        Column("network", "network"),
        Column("size", "px"),
        Column("one_ms", "1 image, ms", 1),
        Column("many_ms", "32 images, ms", 1),
        Column("rate", "images/s at 32", 1),
    ),
    seconds=70,
    measure=measure,
)
