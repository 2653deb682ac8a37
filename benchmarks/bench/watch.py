"""Notes the processor's time and the memory of a real run of ``python -m skinkd.train``, which is started to be watched.

Lightning adds the callback by itself: it looks for entry points of the group below, and ``started`` puts such an entry point on
the path of the processes that it starts. So the run is the product's own, command line and all.
"""

import atexit
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .machine import ROOT

FILE, STOP = "SKINKD_BENCH_WATCH", "SKINKD_BENCH_STOP"
ENTRY_POINT = "[lightning.pytorch.callbacks_factory]\nskinkd_bench = benchmarks.bench.watch:callbacks\n"
METADATA = "Metadata-Version: 2.1\nName: skinkd-bench-watch\nVersion: 1\n"


def started(
    command: Sequence[str], scratch: Path, *, stop_at_first_step: bool = False, timeout: float = 1800
) -> list[dict[str, Any]]:
    """Run ``python`` with arguments, and return the notes of each watched process, in the order in which they began to train.

    Raises:
        RuntimeError: the command failed; with the end of what it printed.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    package = scratch / "path" / "skinkd_bench_watch-1.dist-info"
    package.mkdir(parents=True, exist_ok=True)
    (package / "METADATA").write_text(METADATA)
    (package / "entry_points.txt").write_text(ENTRY_POINT)
    notes = scratch / "notes"
    notes.mkdir(exist_ok=True)
    for old in notes.iterdir():
        old.unlink()
    environment = os.environ | {FILE: str(notes), "NO_ALBUMENTATIONS_UPDATE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(package.parent), str(ROOT), os.environ.get("PYTHONPATH", "")])
    if stop_at_first_step:
        environment[STOP] = "1"
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
    found = [json.loads(path.read_text()) for path in notes.iterdir()]
    return sorted(found, key=lambda note: note["began"])


def processor_seconds() -> float:
    """Of this process, and of the processes it has started that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def callbacks() -> list[Any]:
    """What Lightning adds to every trainer of a watched process; called by Lightning."""
    from lightning.pytorch.callbacks import Callback

    from .timing import status_mib

    class Watch(Callback):
        """Notes time inside Lightning, and memory at the end of each epoch."""

        def setup(self, *_: Any, **__: Any) -> None:
            NOTES.setdefault("began", time.time())
            self.began = processor_seconds(), time.perf_counter()

        def teardown(self, *_: Any, **__: Any) -> None:
            NOTES["inside_cpu"] = NOTES.get("inside_cpu", 0) + processor_seconds() - self.began[0]
            NOTES["inside_wall"] = NOTES.get("inside_wall", 0) + time.perf_counter() - self.began[1]

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, *_: Any) -> None:
            if "first_step_cpu" not in NOTES:
                NOTES["first_step_cpu"] = processor_seconds()
                NOTES["batch"] = sum(part.nbytes for part in batch)
                if os.environ.get(STOP):
                    write()
                    os._exit(0)

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            NOTES.setdefault("rss", []).append(status_mib("VmRSS"))
            NOTES.setdefault("peak", []).append(status_mib("VmHWM"))
            NOTES["files"] = status_mib("RssFile")
            tensors = [*module.parameters(), *module.buffers()]
            tensors += [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
            for state in trainer.optimizers[0].state.values():
                tensors += [value for value in state.values() if hasattr(value, "nbytes")]
            NOTES["network"] = sum(tensor.nbytes for tensor in tensors)

    if not NOTES.get("registered"):
        NOTES["registered"] = True
        atexit.register(write)
    return [Watch()]


NOTES: dict[str, Any] = {}


def write() -> None:
    """Write the notes of this process, if it has trained."""
    if "began" in NOTES:
        NOTES["total_cpu"] = processor_seconds()
        (Path(os.environ[FILE]) / f"{os.getpid()}.json").write_text(json.dumps(NOTES))
