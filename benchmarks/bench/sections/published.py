"""The published steps of SSD-KD and TSS-KD next to ours, from the user's checkouts of the two repositories."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from skinkd.batch import Batch

from ..checkouts import kind_of, ssdkd_step, tsskd_step
from ..networks import CLASSES, alone, batch_of, configuration, formats, method_of, precision_of
from ..session import Bench, Section
from ..table import Column
from ..timing import milliseconds, peak_gib, ratio
from .end_to_end import training_step

STEPS = {"ssdkd": ssdkd_step, "tsskd": tsskd_step}
SHAPES = {"ssdkd": (64, 32), "tsskd": (32, 128)}
"""Size and images of a batch, as published; but SSD-KD at 64 px in the place of 224."""
VIEWS = {"ssdkd": 4, "tsskd": 2}
NETWORK = {"ssdkd": (), "tsskd": ("backbone=resnet18", "backbone.small_input=true", "backbone.head=mlp")}


def compared(bench: Bench, kind: str, checkout: Path, *, size: int, images: int, seconds: float) -> dict[str, Any]:
    """Milliseconds and memory of both steps, optimizers included, which take turns."""
    words = (f"method={kind}", "data=synthetic", f"data.image_size={size}", f"data.batch_size={images}")
    method, config = method_of(configuration(*words, *NETWORK[kind], *bench.overrides), bench.device)
    batch, precision = batch_of(method, config, bench.device), precision_of(config, bench.device)
    optimizer = torch.optim.SGD(
        [parameter for parameter in method.parameters() if parameter.requires_grad], lr=1e-3, momentum=0.9
    )
    theirs = STEPS[kind](checkout, image=normalised(batch), label=batch.label, classes=CLASSES)
    steps = {"published": theirs, "ours": lambda: training_step(method, optimizer, batch, precision)}
    with alone(method):
        taken = bench.timer.in_turn(steps, seconds=seconds)
        memory = {f"{name}_gib": peak_gib(step, bench.device) for name, step in steps.items()}
    return {
        "published_ms": milliseconds(taken["published"]),
        "ours_ms": milliseconds(taken["ours"]),
        "ratio": ratio(taken["published"], taken["ours"]),
        "rounds": len(taken["ours"]),
        "formats": formats(config),
        **memory,
    }


NEEDS = 20  # seconds of a row


def normalised(batch: Batch) -> torch.Tensor:
    """The images as the published loaders give them: float32 about 0."""
    return (batch.image.float() / 255 - 0.45) / 0.225


def measure(bench: Bench) -> None:
    """Each checkout of ``--against``."""
    for place, checkout in enumerate(bench.against):
        kind = kind_of(checkout)
        size, images = SHAPES[kind][0], 4 if bench.quick else SHAPES[kind][1]
        names = {"method": kind, "size": size, "images": f"{images} × {VIEWS[kind]}"}
        seconds = bench.share([NEEDS] * (len(bench.against) - place)) / 2
        one = partial(compared, bench, kind, checkout, size=size, images=images, seconds=seconds)
        bench.take(names, one, needs=NEEDS)


SECTION = Section(
    title="Published steps and ours",
    explains="Whole steps, optimizer included, with the networks and the batch of the published code, which runs from the "
    "checkouts that --against names.",
    columns=(
        Column("method", "method"),
        Column("size", "px"),
        Column("images", "images"),
        Column("published_ms", "published, ms", 1),
        Column("ours_ms", "ours, ms", 1),
        Column("ratio", "ratio", 1),
        Column("published_gib", "GiB", 2),
        Column("ours_gib", "ours", 2),
    ),
    seconds=90,
    measure=measure,
)
