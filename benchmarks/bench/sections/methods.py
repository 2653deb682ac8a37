"""Each method's step over the passes that it cannot avoid."""

from functools import partial
from typing import Any

from ..networks import all_methods, alone, batch_of, configuration, formats, method_of, precision_of
from ..passes import passes_alone, whole_step
from ..session import Bench, Section
from ..table import Column
from ..timing import milliseconds, peak_gib, ratio

TINY = ("supervised", "swskd", "tsskd", "dlb", "kd", "crd", "reviewkd")
NEEDS = {"mskd_teacher": 60, "mskd": 40}  # seconds, on two cores; the others take less
IMAGES = {"ssdkd": 32, "ssdkd_projection": 32}  # of four rotations each, as published


def overhead(bench: Bench, name: str, images: int, size: int, *, seconds: float) -> dict[str, Any]:
    """Milliseconds of the step and of its passes, which take turns, their ratio, and the memory that either needs."""
    words = [f"method={name}", "data=synthetic", f"data.image_size={size}", f"data.batch_size={images}"]
    config = configuration(*words, *bench.overrides)
    method = method_of(config, bench.device)
    batch, precision = batch_of(method, config, bench.device), precision_of(config, bench.device)
    steps = {
        "step": lambda: whole_step(method, batch, precision),
        "passes": lambda: passes_alone(method, batch, precision),
    }
    with alone(method):
        taken = bench.timer.in_turn(steps, seconds=seconds)
        memory = {f"{key}_gib": peak_gib(step, bench.device) for key, step in steps.items()}
    return {
        "step_ms": milliseconds(taken["step"]),
        "passes_ms": milliseconds(taken["passes"]),
        "ratio": ratio(taken["step"], taken["passes"]),
        "rounds": len(taken["step"]),
        "formats": formats(config),
        **memory,
    }


def measure(bench: Bench) -> None:
    """All methods at 64 px; on a GPU SSD-KD at 224 px too."""
    names = TINY if bench.quick else all_methods()
    on_gpu = bench.device.type == "cuda"
    plan = [(name, IMAGES.get(name, 128 if on_gpu else 64), 64) for name in names]
    if on_gpu:
        plan.append(("ssdkd", 32, 224))
    for place, (name, images, size) in enumerate(plan):
        count = 4 if bench.quick else images
        names = {"method": name, "size": size, "images": f"{count} × 4" if name in IMAGES else str(count)}
        one = partial(overhead, bench, name, count, size, seconds=bench.share(len(plan) - place) / 2)
        bench.take(names, one, needs=4 if on_gpu else NEEDS.get(name, 8))


SECTION = Section(
    title="Each method's step over its unavoidable passes",
    explains="The passes are forward and backward of the student and of the heads that the method trains, and forward of its "
    "teacher. Target: at most 1.05.",
    columns=(
        Column("method", "method"),
        Column("size", "px"),
        Column("images", "images"),
        Column("step_ms", "step, ms", 1),
        Column("passes_ms", "passes, ms", 1),
        Column("ratio", "ratio", 2),
        Column("step_gib", "step, GiB", 2),
        Column("passes_gib", "passes, GiB", 2),
    ),
    seconds=300,
    measure=measure,
)
