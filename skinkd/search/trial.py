"""The process of one trial of a search: started, followed through its run's history, stopped."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from skinkd.jobs.processes import LocalProcess, LocalProcesses


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
                rows = history_of(run, metric)[["epoch", metric]].iloc[looked:]
                for epoch, value in rows.itertuples(index=False):
                    looked = int(epoch)
                    show(looked, value)
                    if tell(looked, float(value)):
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


def history_of(run: Path, metric: str) -> pd.DataFrame:
    """A run's history, a row an epoch; without rows if it has none yet, NaN where it lacks the metric."""
    path = run / "history.csv"
    if not path.exists():
        return pd.DataFrame({"epoch": [], metric: [], "seconds": []})
    history = pd.read_csv(path)
    return history if metric in history else history.assign(**{metric: np.nan})


def reason(log: Path, code: int) -> str:
    """Why a process ended, as the last error of its log says."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error: ")] or lines or ["no word"]
    return f"exit code {code}: {said[-1].removeprefix('error: ')}"


def _stop(process: LocalProcess, seconds: float) -> None:
    """End a process and those it has started: asked first, so that it closes its tracker, then by force."""
    until = time.monotonic() + seconds
    if process.poll() is None:
        process.stop(kill=False)
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    process.stop(kill=True)
