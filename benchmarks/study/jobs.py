"""Runs in processes that are forked from this one, as many at the same time as there are cores for, until a deadline.

A forked process has all imports already, which saves seconds. It goes on with the next run when one has finished, which
saves the start of CUDA: in a new process the first epoch takes fifteen seconds longer than the others.
"""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

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
    """What ``function`` returns for each of the arguments, made at the same time: composing takes a third of a second.

    Raises:
        SystemExit: with the first error's message. The error itself may be of a type that cannot travel between processes.
    """
    with FORK.Pool(min(len(arguments), os.cpu_count() or 1)) as pool:
        made = pool.starmap(_tried, [(function, *one) for one in arguments])
    for _, wrong in made:
        if wrong:
            raise SystemExit(wrong)
    return [value for value, _ in made]


def _tried(function: Any, *arguments: Any) -> tuple[Any, str]:
    try:
        return function(*arguments), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


class Slot:
    """A process that runs jobs one after the other, in a process group of its own.

    A run that fails ends it, since a broken CUDA context would fail those behind it too.
    """

    def __init__(self) -> None:
        self.job: Job | None = None
        self._pipe, theirs = FORK.Pipe()
        self._process = FORK.Process(target=_serve, args=(theirs, os.getpid()))
        self._process.start()
        theirs.close()

    def run(self, job: Job, log: Path) -> None:
        """Begin a job."""
        self.job, job.began = job, time.monotonic()
        self._pipe.send((job.overrides, log))

    @property
    def busy(self) -> bool:
        """Whether its job is running."""
        return self.job is not None and self.alive and not self._pipe.poll()

    @property
    def alive(self) -> bool:
        """Whether its process is."""
        return self._process.is_alive()

    def take(self) -> Job:
        """The job that has ended; the slot is free then, if it is alive."""
        job, self.job = self.job, None
        assert job
        try:
            if self._pipe.recv() != 0:
                self._process.join()
        except (OSError, EOFError):  # killed
            self._process.join()
        return job

    def kill(self, number: int) -> None:
        """Send a signal to the process and to all that it started."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:  # it has just begun and has no group of its own yet, or it has ended
            self._process.kill()


def _serve(pipe: Any, parent: int) -> None:
    os.setsid()
    code = 0
    while code == 0:
        while not pipe.poll(1):
            if os.getppid() != parent:  # which was killed
                return
        try:
            overrides, log = pipe.recv()
        except EOFError:  # it was killed too
            return
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
        code = _train(overrides)
        sys.stdout.flush()
        sys.stderr.flush()
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        pipe.send(code)


def _train(overrides: Sequence[str]) -> int:
    """Run ``python -m skinkd.train`` with the overrides in this process; return its exit code."""
    if "SKINKD_STUDY_NO_FORK" in os.environ:
        return subprocess.run([sys.executable, "-m", "skinkd.train", *overrides], check=False).returncode
    sys.argv = ["skinkd.train", *overrides]
    try:
        cli.main(train.train, "train")
    except SystemExit as end:
        return int(end.code not in (None, 0))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


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
    slots: list[Slot] = []
    try:
        while (waiting or any(slot.job for slot in slots)) and time.monotonic() < until:
            for slot in [slot for slot in slots if slot.job and not slot.busy]:
                _told(slot.take(), logs)
            slots = [slot for slot in slots if slot.alive]
            for job in list(waiting):
                if any(need.failed for need in job.needs):
                    job.failed = True
                    waiting.remove(job)
                elif all(need.finished for need in job.needs):
                    used = [slot.job.cores for slot in slots if slot.job]
                    if used and sum(used) + job.cores > cores:
                        break  # those behind it wait too, or the largest would come last
                    waiting.remove(job)
                    free = [slot for slot in slots if not slot.job]
                    slots += [] if free else [Slot()]
                    (free or slots)[-1].run(job, logs / job.log)
            time.sleep(0.1)
    finally:
        _end(slots)
    for slot in slots:
        if slot.job:
            print(f"stopped: {slot.job.label}")
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


def _end(slots: Sequence[Slot]) -> None:
    """End the processes and all that these started: asked first, then killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for slot in slots:
            if slot.alive:
                slot.kill(number)
        stop = time.monotonic() + 3
        while any(slot.alive for slot in slots) and time.monotonic() < stop:
            time.sleep(0.1)
