"""The memory of a run over its epochs, and beyond what it must hold."""

from pathlib import Path
from typing import Any

from ..session import Bench, Section
from ..table import Column
from ..watch import started

MIB = 2**20


def run(bench: Bench, method: str, *, epochs: int) -> dict[str, Any]:
    """A run from the RAM cache, whose process tells its memory at the end of each epoch.

    ``network`` is parameters, buffers, gradients and the optimizer's state; ``beyond`` is the peak without network, cache and
    batch, so it has Python, all libraries and the activations. ``files`` are pages of files, most of them of libraries, which
    all processes of a machine share.
    """
    scratch = bench.scratch / "memory"
    words = [*bench.data, f"method={method}", "data.cache=ram", f"trainer.max_epochs={epochs}", "logger=none"]
    words += [f"trainer.limit_train_batches={2 if bench.quick else 8}", "data.num_workers=1", "force=true"]
    words += ["backbone.pretrained=false", "trainer.enable_progress_bar=false", f"paths.output_dir={scratch}"]
    note = started(["-m", "skinkd.train", *words, *bench.overrides], scratch)[-1]
    cache = sum(path.stat().st_size for path in Path(scratch).rglob("pixels.bin")) / MIB
    network, batch = note["network"] / MIB, note["batch"] / MIB
    return {
        "second": note["rss"][min(1, epochs - 1)],
        "last": note["rss"][-1],
        "peak": note["peak"][-1],
        "network": network,
        "cache": cache,
        "batch": batch,
        "beyond": note["peak"][-1] - network - cache - batch,
        "files": note["files"],
        "rss": note["rss"],
    }


def measure(bench: Bench) -> None:
    """Supervised training."""
    epochs = 2 if bench.quick else 4
    bench.take({"method": "supervised", "epochs": epochs}, lambda: run(bench, "supervised", epochs=epochs), needs=30)


SECTION = Section(
    title="Memory of a run, in MiB",
    explains="ResNet-18 at 64 px from the RAM cache, epochs of 8 batches. What a run holds after its second epoch and its "
    "last shows whether it grows. Target: at most 1,024 MiB beyond network, cache and batch.",
    columns=(
        Column("method", "method"),
        Column("epochs", "epochs"),
        Column("second", "2nd epoch", 0),
        Column("last", "last", 0),
        Column("peak", "peak", 0),
        Column("network", "network", 0),
        Column("cache", "cache", 0),
        Column("batch", "batch", 1),
        Column("beyond", "beyond", 0),
        Column("files", "files", 0),
    ),
    seconds=55,
    measure=measure,
)
