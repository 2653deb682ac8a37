"""Runs in processes that are forked from this one, as many at the same time as there are cores for, until a deadline.

A forked process has all imports already, which saves each run several seconds.
"""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skinkd import train
from skinkd.config import cli
from skinkd.runs.folder import RunFolder

BEGAN = time.monotonic() - time.process_time()  # before the imports
FORK = multiprocessing.get_context("fork")


@dataclass(eq=False)
class Job:
    """A run, the cores that it keeps busy, and the jobs that it waits for."""

    label: str
    overrides: list[str]
    folder: Path
    test: bool
    cores: int
    needs: list["Job"] = field(default_factory=list)
    process: Any = None
    failed: bool = False
    began: float = 0.0

    @property
    def log(self) -> str:
        """Name of the file of what it prints."""
        return f"{self.label.replace(' ', '_')}.log"

    @property
    def finished(self) -> bool:
        """Whether its run folder has all it is to have."""
        return RunFolder(self.folder).finished_with(test=self.test)


def in_processes(function: Any, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """What ``function`` returns for each of the arguments, made at the same time: composing takes a third of a second."""
    with FORK.Pool(min(len(arguments), os.cpu_count() or 1)) as pool:
        return pool.starmap(function, arguments)


def _child(overrides: list[str], log: Path) -> None:
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if "SKINKD_STUDY_NO_FORK" in os.environ:
        os.execv(sys.executable, [sys.executable, "-m", "skinkd.train", *overrides])
    sys.argv = ["skinkd.train", *overrides]
    code: Any = 0
    try:
        cli.main(train.train, "train")
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    sys.exit(code)


def run_jobs(jobs: Sequence[Job], *, cores: int, until: float, logs: Path) -> None:
    """Run jobs in their order, each when those it needs have finished, until the time is over; end what runs then.

    Args:
        jobs: with those they need.
        cores: how many the running jobs may count together.
        until: of ``time.monotonic()``.
        logs: folder of what each prints.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting = [job for job in jobs if not job.finished]
    running: list[Job] = []
    try:
        while (waiting or running) and time.monotonic() < until:
            for job in [job for job in running if not job.process.is_alive()]:
                running.remove(job)
                _told(job, logs)
            for job in list(waiting):
                if any(need.failed for need in job.needs):
                    job.failed = True
                    waiting.remove(job)
                elif all(need.finished for need in job.needs):
                    if running and sum(one.cores for one in running) + job.cores > cores:
                        break  # those behind it wait too, or the largest would come last
                    waiting.remove(job)
                    running.append(job)
                    job.began = time.monotonic()
                    job.process = FORK.Process(target=_child, args=(job.overrides, logs / job.log))
                    job.process.start()
            time.sleep(0.1)
    finally:
        _end(running)
    for job in running:
        print(f"stopped: {job.label}")
    if waiting:
        print(f"not begun: {len(waiting)} jobs, the first of them {waiting[0].label}", flush=True)


def _told(job: Job, logs: Path) -> None:
    job.failed = not job.finished
    now = time.monotonic()
    said = f"{now - BEGAN:5.0f} s  {job.label}: {'FAILED' if job.failed else 'finished'} after {now - job.began:.0f} s"
    print(said, flush=True)
    if job.failed:
        last = (logs / job.log).read_text(errors="replace").splitlines()[-5:]
        print(*(f"         {line}" for line in last), sep="\n", flush=True)


def _end(running: Sequence[Job]) -> None:
    """End the jobs' processes and all that these started: asked first, then killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for job in running:
            if job.process.is_alive():
                try:
                    os.killpg(job.process.pid, number)
                except ProcessLookupError:  # it has just begun and has no group of its own yet
                    job.process.kill()
        stop = time.monotonic() + 3
        while any(job.process.is_alive() for job in running) and time.monotonic() < stop:
            time.sleep(0.1)
