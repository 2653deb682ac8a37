"""A supervised training step on a batch in memory, by number format, layout and compilation: for a GPU.

For CPUs, benchmarks/formats.py has the formats of more networks.
"""

from functools import partial
from typing import Any

import torch

from ..networks import CLASSES, configuration, network_of
from ..session import Bench, Section
from ..table import Column
from ..timing import milliseconds, peak_gib

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
LITE = ("backbone=timm", "backbone.name=tf_efficientnet_lite0")


def step_in_memory(
    bench: Bench,
    *network: str,
    batch: int,
    size: int,
    dtype: str,
    channels_last: bool,
    mode: str | None = None,
    searched: bool = False,
) -> dict[str, Any]:
    """Forward, cross-entropy, backward and SGD.

    Args:
        bench: the session.
        network: words of a command line that choose the network.
        batch: images of a step.
        size: px.
        dtype: a name of ``DTYPES``.
        channels_last: the layout.
        mode: of torch.compile; None is without.
        searched: let cuDNN search its fastest algorithms, as ``trainer.deterministic=false trainer.benchmark=true``.
    """
    device, kind = bench.device, DTYPES[dtype]
    config = configuration("data=synthetic", f"data.image_size={size}", *network)
    model = network_of(config | {"channels_last": channels_last}).to(device).train()
    forward = torch.compile(model, mode=mode) if mode else model
    fused = True if device.type == "cuda" else None
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=fused
    )
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == "fp16")
    image = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
    label = torch.randint(CLASSES, (batch,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=kind or torch.bfloat16, enabled=kind is not None, cache_enabled=False):
            logits = forward(image)
        scaler.scale(torch.nn.functional.cross_entropy(logits.float(), label)).backward()
        scaler.step(optimizer)
        scaler.update()

    if searched:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    try:
        taken = bench.timer.in_turn({"step": step}, seconds=1)["step"]
        memory = peak_gib(step, device)
    finally:
        as_in_runs()
    ms = milliseconds(taken)
    return {"ms": ms, "rate": 1000 * batch / ms, "gib": memory, "rounds": len(taken)}


def as_in_runs() -> None:
    """PyTorch's switches as ``trainer.deterministic=warn`` sets them in a run."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def measure(bench: Bench) -> None:
    """ResNet-18 at 64 px in all formats, EfficientNet-Lite0 at the sizes of the study, then compilation."""
    on_gpu = bench.device.type == "cuda"
    large = 8 if bench.quick else 1024 if on_gpu else 64
    dtypes = ("bf16", "fp32", "fp16") if on_gpu else ("bf16", "fp32")
    resnet = {"name": "ResNet-18", "words": ("backbone=resnet18",), "size": 64, "batch": large}
    lite = {"name": "EfficientNet-Lite0", "words": LITE, "batch": large // 4}
    plan = [resnet | {"dtype": kind, "channels_last": last} for kind in dtypes for last in (True, False)]
    if on_gpu:
        plan += [resnet | {"batch": 512, "dtype": "bf16", "channels_last": last} for last in (True, False)]
    fast = {"dtype": "bf16", "channels_last": True}
    if on_gpu or bench.quick:
        plan += [lite | fast | {"size": size} for size in ((64,) if bench.quick else (96, 128, 224))]
    if on_gpu:
        plan.append(resnet | fast | {"searched": True, "note": "algorithms searched"})
        plan += [resnet | fast | {"mode": mode, "note": f"compiled, {mode}"} for mode in ("default", "reduce-overhead")]
    for row in plan:
        settings = {key: value for key, value in row.items() if key not in ("name", "words", "note")}
        names = {
            "network": row["name"],
            "size": row["size"],
            "batch": row["batch"],
            "format": f"{row['dtype']}{', channels-last' if row['channels_last'] else ''}",
            "note": row.get("note", ""),
        }
        one = partial(step_in_memory, bench, *row["words"], **settings)
        bench.take(names, one, needs=25 if "mode" in row else 3)


SECTION = Section(
    title="The supervised step on a batch in memory",
    explains="Forward, cross-entropy, backward and SGD; no loop and no loader.",
    columns=(
        Column("network", "network"),
        Column("size", "px"),
        Column("batch", "batch"),
        Column("format", "format"),
        Column("note", ""),
        Column("ms", "ms", 2),
        Column("rate", "images/s", 0),
        Column("gib", "GiB", 2),
    ),
    seconds=77,
    measure=measure,
)
