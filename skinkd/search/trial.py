"""Starts the process of a trial, follows it through its run's history, and stops it."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from skinkd.jobs.processes import LocalProcess, LocalProcesses
from skinkd.runs.history import read_history


def follow(
    command: Sequence[str],
    processes: LocalProcesses,
    run: Path,
    log: Path,
    *,
    metric: str,
    tell: Callable[[int, float], bool],
    show: Callable[[int, float], None],
    poll_seconds: float,
    stop_seconds: float,
) -> tuple[bool, int]:
    """Start ``command`` by ``processes``, its output in ``log``, and call ``tell`` with each epoch of ``run`` and its metric.

    Every epoch is told, in order. The epochs that an earlier process left are told before the new process starts. So the
    epoch at which ``tell`` stops the trial does not depend on when the history is read.

    Returns:
        Whether ``tell`` stopped the trial by returning True, and the exit code of the process, 0 if it was stopped. In
        either case the process has ended.
    """
    looked = 0
    process: LocalProcess | None = None
    try:
        while True:
            # before the history is read, so that no last epoch is missed
            code = None if process is None else process.poll()
            for value in read_history(run).values(metric)[looked:]:
                looked += 1
                if math.isnan(value):  # an epoch without validation
                    continue
                show(looked, value)
                if tell(looked, value):
                    return True, 0
            if code is not None:
                return False, code
            if process is None:
                log.parent.mkdir(exist_ok=True)
                process = processes.start(list(command), log, {}, run.name)
            time.sleep(poll_seconds)
    finally:
        if process is not None:
            _stop(process, stop_seconds)


def _stop(process: LocalProcess, seconds: float) -> None:
    """Ask a process to end, so that it closes its tracker; after ``seconds``, kill it and the processes that it started."""
    until = time.monotonic() + seconds
    if process.poll() is None:
        process.stop(kill=False)
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    process.stop(kill=True)
