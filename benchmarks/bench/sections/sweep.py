"""What a sweep of short runs costs beside training and scoring."""

import statistics
import time
from typing import Any

from ..session import Bench, Section
from ..table import Column
from ..watch import started

SHORT = ("data=synthetic", "data.image_size=64", "backbone=resnet18", "trainer.max_epochs=1", "data.num_workers=0")


def sweep(bench: Bench, jobs: int) -> list[dict[str, Any]]:
    """Rows of the whole sweep and of its jobs.

    Training and scoring are all that happens inside Lightning: the fit with its validations, and the scoring of the best
    checkpoint. The jobs load their images themselves, so that the processor's time of loading is counted with training.
    """
    words = [*SHORT, f"data.table.images={120 if bench.quick else 600}", "logger=none", "backbone.pretrained=false"]
    words += ["trainer.enable_progress_bar=false", f"paths.output_dir={bench.scratch / 'sweep'}", "sweep.devices=1"]
    command = ["-m", "skinkd.train", "-m", f"seed={','.join(map(str, range(jobs)))}", *words, *bench.overrides]
    began = time.perf_counter()
    notes = started(command, bench.scratch / "sweep")
    wall = time.perf_counter() - began
    inside = sum(note["inside_wall"] for note in notes)
    beside = [note["total_cpu"] - note["inside_cpu"] for note in notes]
    later = beside[1:] or beside
    rows = [
        {"what": f"sweep of {len(notes)} jobs", "wall": wall, "inside": inside, "ratio": wall / inside},
        {"what": "first job, processor", "wall": notes[0]["total_cpu"], "inside": notes[0]["inside_cpu"]},
        {
            "what": "later job, processor",
            "wall": statistics.median(note["total_cpu"] for note in notes[1:] or notes),
            "inside": statistics.median(note["inside_cpu"] for note in notes[1:] or notes),
        },
    ]
    rows[1]["beside"], rows[2]["beside"], rows[2]["most"] = beside[0], statistics.median(later), max(later)
    return rows


def measure(bench: Bench) -> None:
    """Ten jobs; a dry run has two."""
    found: list[dict[str, Any]] = []

    def first() -> dict[str, Any]:
        found.extend(sweep(bench, 2 if bench.quick else 10))
        return found.pop(0)

    bench.take({"what": "sweep"}, first, needs=60)
    bench.rows += found


SECTION = Section(
    title="A sweep of short runs",
    explains="Supervised ResNet-18, 600 drawn images at 64 px, one epoch, one job at a time. Inside is training and scoring; "
    "beside it are imports, audit, intervals, plots and files. Target: at most 5 s of the processor for each later job.",
    columns=(
        Column("what", "what"),
        Column("wall", "all, s", 1),
        Column("inside", "inside, s", 1),
        Column("ratio", "ratio", 2),
        Column("beside", "beside, s", 1),
        Column("most", "at most", 1),
    ),
    seconds=125,
    measure=measure,
)
