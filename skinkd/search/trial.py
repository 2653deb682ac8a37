"""The process of one trial of a search: started, followed through its run's history, stopped."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from skinkd.jobs.processes import LocalProcess, LocalProcesses
from skinkd.runs.history import read_history


def follow(
    command: Sequence[str],
    run: Path,
    log: Path,
    *,
    metric: str,
    tell: Callable[[int, float], bool],
    show: Callable[[int, float], None],
    poll_seconds: float,
    stop_seconds: float,
) -> tuple[bool, int]:
    """Run ``command``, whose output goes to ``log``, and tell each epoch of ``run`` and its metric as it comes.

    Epochs are told in their order, beginning with those that an earlier process left and before the process is started, so
    that which is the last does not depend on when we look.

    Returns:
        Whether ``tell`` ended it, by returning True; and else the process's exit code. The process has ended in any case.
    """
    looked = 0
    process: LocalProcess | None = None
    with LocalProcesses() as processes:
        try:
            while True:
                code = None if process is None else process.poll()  # first, so that its last epochs are read after it
                for value in read_history(run).values(metric)[looked:]:
                    looked += 1
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
    """End a process and those it has started: asked first, so that it closes its tracker, then by force."""
    until = time.monotonic() + seconds
    if process.poll() is None:
        process.stop(kill=False)
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    process.stop(kill=True)
