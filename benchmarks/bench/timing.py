"""Times steps that take turns inside one process, and the memory that a step needs."""

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
"""``processor``: seconds of all threads of this process. With one thread, other programs disturb it least."""

SHORTEST = 0.05  # seconds of one timing: a shorter step is repeated
FEWEST, MOST = 3, 40  # rounds


class Timer:
    """Times steps on a device.

    Args:
        device: of the steps. The clock is read when a CUDA device has done all its work.
        clock: a name of ``CLOCKS``.
        quick: a single round of single calls, to see that everything works.
    """

    def __init__(self, device: torch.device, *, clock: str, quick: bool = False) -> None:
        self.device, self.quick = device, quick
        self._clock = CLOCKS[clock]

    def now(self) -> float:
        """Seconds on the clock, once the device has done all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self._clock()

    def in_turn(self, steps: Mapping[str, Callable[[], object]], *, seconds: float) -> dict[str, list[float]]:
        """Seconds of a call of each step in each round.

        Each step is called before the first round, to warm up. In every second round the order is reversed.

        Args:
            steps: by name.
            seconds: no round begins after this time, but at least three rounds are taken.
        """
        calls = {}
        for name, step in steps.items():
            first = self._time(step, 1)
            if first < SHORTEST:  # the first call also prepares what later calls find
                first = self._time(step, 1)
            calls[name] = 1 if self.quick else max(1, round(SHORTEST / max(first, 1e-6)))
        taken: dict[str, list[float]] = {name: [] for name in steps}
        end = time.perf_counter() + seconds
        for number in range(1 if self.quick else MOST):
            if number >= FEWEST and time.perf_counter() > end:
                break
            for name in list(steps) if number % 2 == 0 else reversed(list(steps)):
                taken[name].append(self._time(steps[name], calls[name]))
        return taken

    def _time(self, step: Callable[[], object], calls: int) -> float:
        began = self.now()
        for _ in range(calls):
            step()
        return (self.now() - began) / calls


def milliseconds(taken: Sequence[float]) -> float:
    """The median, in milliseconds."""
    return 1000 * statistics.median(taken)


def ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """The median of the paired ratios, the pairs being rounds."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def peak_gib(step: Callable[[], object], device: torch.device) -> float | None:
    """GiB that a call needs at most, beyond what is held before it; None where neither CUDA nor Linux tells."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**30
    try:
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # else the call uses memory that is free but still counted
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is held now
        before_mib = status_mib("VmHWM")
        step()
        return (status_mib("VmHWM") - before_mib) / 1024
    except OSError:
        return None


def status_mib(name: str) -> float:
    """A number of /proc/self/status in MiB: ``VmRSS``, the memory held now, or ``VmHWM``, its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {name}")
