"""Each method's step over the passes that it cannot avoid."""

from functools import partial
from typing import Any

from ..networks import all_methods, alone, batch_of, configuration, formats, method_of, precision_of
from ..passes import networks_known, passes_alone, whole_step
from ..session import Bench, Section
from ..table import Column
from ..timing import milliseconds, peak_gib, ratio

TINY = ("supervised", "swskd", "tsskd", "dlb", "kd", "crd", "reviewkd")
NEEDS = {"mskd_teacher": 16, "reviewkd": 16, "mskd": 14}  # seconds, on two cores; the others take less
FOUR = ("ssdkd", "ssdkd_projection")  # rotations of each image
IMAGES = {"ssdkd": 32, "ssdkd_projection": 32, "reviewkd": 16, "mskd_teacher": 16}  # SSD-KD's as published


def overhead(bench: Bench, name: str, images: int, size: int, *, seconds: float) -> dict[str, Any]:
    """Milliseconds of the step and of its passes, which take turns, their ratio, and the memory that the step needs.

    ``beyond_ms`` and ``heads_ms`` are taken with outputs of student and teacher that are computed already: what the step takes
    beyond the passes, and what the heads take of the passes. They are small times of their own, so they are known well where
    the ratio, of large times, is not.
    """
    words = [f"method={name}", "data=synthetic", f"data.image_size={size}", f"data.batch_size={images}"]
    method, config = method_of(configuration(*words, *bench.overrides), bench.device)
    batch, precision = batch_of(method, config, bench.device), precision_of(config, bench.device)
    steps = {
        "step": lambda: whole_step(method, batch, precision),
        "passes": lambda: passes_alone(method, batch, precision),
    }
    with alone(method):
        taken = bench.timer.in_turn(steps, seconds=seconds)
        memory = peak_gib(steps["step"], bench.device)
        with networks_known(method, batch):
            beyond = bench.timer.in_turn(steps, seconds=seconds / 10)
    return {
        "step_ms": milliseconds(taken["step"]),
        "passes_ms": milliseconds(taken["passes"]),
        "ratio": ratio(taken["step"], taken["passes"]),
        "beyond_ms": milliseconds(beyond["step"]) - milliseconds(beyond["passes"]),
        "heads_ms": milliseconds(beyond["passes"]),
        "rounds": len(taken["step"]),
        "step_gib": memory,
        "formats": formats(config),
    }


def measure(bench: Bench) -> None:
    """All methods at 64 px; on a GPU SSD-KD at 224 px too."""
    names = TINY if bench.quick else all_methods()
    on_gpu = bench.device.type == "cuda"
    plan = [(name, IMAGES.get(name, 128 if on_gpu else 64), 64) for name in names]
    if on_gpu:
        plan.append(("ssdkd", 32, 224))
    needs = [4 if on_gpu else NEEDS.get(name, 6) for name, *_ in plan]
    for place, (name, images, size) in enumerate(plan):
        count = 4 if bench.quick else images
        views = " × 4" if name in FOUR else ""
        names = {"method": name if size == 64 else f"{name}, {size} px", "images": f"{count}{views}"}
        one = partial(overhead, bench, name, count, size, seconds=bench.share(needs[place:]) / 2)
        bench.take(names, one, needs=needs[place])


SECTION = Section(
    title="Each method's step over its unavoidable passes, 64 px, in ms",
    explains="The passes are forward and backward of the student and of the heads that the method trains, and forward of its "
    "teacher. Beyond and heads are timed with outputs of the networks that are computed already: the step without its passes, "
    "and the heads alone. Target: a ratio of at most 1.05.",
    columns=(
        Column("method", "method"),
        Column("images", "images"),
        Column("step_ms", "step", 1),
        Column("passes_ms", "passes", 1),
        Column("ratio", "ratio", 2),
        Column("beyond_ms", "beyond", 1),
        Column("heads_ms", "heads", 1),
        Column("step_gib", "GiB", 2),
    ),
    seconds=200,
    measure=measure,
)
