"""Where figures were taken: machine, versions, threads, date and commit."""

import datetime
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from skinkd.runs.environment import processor

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "lightning", "timm", "albumentations", "torchvision")


def describe(device: torch.device, *, clock: str) -> dict[str, Any]:
    """What belongs to every figure. A ``load`` above 0.5 says that other programs were running at the start."""
    gpu = {"gpu": torch.cuda.get_device_name()} if device.type == "cuda" else {}
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "convolutions": os.environ.get("ONEDNN_MAX_CPU_ISA", "all units of the processor"),
        "clock": clock,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        **gpu,
    }


def commit() -> str:
    """The commit of this checkout or, in the pack for a bare machine, that of the file COMMIT."""
    packed = ROOT / "COMMIT"
    if packed.exists():
        return packed.read_text().strip()
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def sentence(machine: dict[str, Any]) -> str:
    """The machine in one paragraph, for the Markdown page."""
    gpu = f"{machine['gpu']}; " if "gpu" in machine else ""
    return (
        f"Machine: {gpu}{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, load {machine['load']} "
        f"at the start; Python {machine['python']}, PyTorch {machine['torch']}, Lightning {machine['lightning']}, timm "
        f"{machine['timm']}, torchvision {machine['torchvision']}. Date: {machine['date']}, commit {machine['commit']}, "
        f"clock: {machine['clock']}."
    )
