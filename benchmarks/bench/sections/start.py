"""Seconds from a command to its help text, and to the first training step."""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from ..machine import ROOT
from ..session import Bench, Section
from ..table import Column
from ..watch import processor_seconds, started


def help_text(bench: Bench) -> dict[str, Any]:
    """``python -m skinkd.train --help``."""
    before, began = processor_seconds(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "skinkd.train", "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return {"cpu": processor_seconds() - before, "wall": time.perf_counter() - began}


def first_step(bench: Bench, *words: str) -> dict[str, Any]:
    """``python -m skinkd.train`` until Lightning begins the first batch."""
    began = time.perf_counter()
    command = ["-m", "skinkd.train", "logger=none", "backbone.pretrained=false", "trainer.enable_progress_bar=false"]
    notes = started([*command, *bench.data, *words, *bench.overrides], bench.scratch / "start", stop_at_first_step=True)
    return {"cpu": notes[0]["first_step_cpu"], "wall": time.perf_counter() - began}


def measure(bench: Bench) -> None:
    """Help, the first start on these images, a later start, and one that makes the RAM cache."""
    output = f"paths.output_dir={bench.scratch / 'start'}"
    rows: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("--help", lambda: help_text(bench)),
        ("first training on these images", lambda: first_step(bench, output)),
        ("later training", lambda: first_step(bench, output, "force=true")),
    ]
    if not bench.quick:
        rows.append(
            ("training that makes the RAM cache", lambda: first_step(bench, output, "data.cache=ram", "force=true"))
        )
    for name, measured in rows:
        bench.take({"command": name}, measured, needs=15)


SECTION = Section(
    title="From the command to the first training step",
    explains="Supervised ResNet-18 at 64 px. The first training hashes every image for the leak audit, or draws the images if "
    "they are drawn; later ones remember the hashes.",
    columns=(
        Column("command", "command"),
        Column("cpu", "processor, s", 1),
        Column("wall", "clock, s", 1),
    ),
    seconds=65,
    measure=measure,
)
