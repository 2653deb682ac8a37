"""The text of ``environment.txt``: the machine and the packages of a run."""

import functools
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path

import torch


def describe_environment(*, formats: Sequence[str] = ()) -> str:
    """Return Python, machine, devices, the commit of a checkout, the command, and the version of every installed package.

    Args:
        formats: a line for each number format and memory layout of the run.
    """
    lines = [
        f"python {platform.python_version()}",
        f"platform {platform.platform()}",
        f"processor {processor()}",
        f"processor cores {os.cpu_count()}",
        f"torch threads {torch.get_num_threads()}",
        f"commit {_commit()}",
        f"command {shlex.join(['python', *sys.orig_argv[1:]])}",
    ]
    lines += [f"gpu {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    return "\n".join([*lines, *formats, "", *_packages()]) + "\n"


@functools.cache  # a teacher and its student run in one process
def _packages() -> list[str]:
    found = (package.metadata for package in distributions())  # each access reads and parses the package's file
    return sorted({f"{metadata['Name']}=={metadata['Version']}" for metadata in found}, key=str.lower)


def processor() -> str:
    """Return the processor's model on Linux, else its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Return the checkout's commit, and whether files differ from it; ``unknown`` for an installed package."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return "unknown"
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit + (" with uncommitted changes" if _git(here, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()
