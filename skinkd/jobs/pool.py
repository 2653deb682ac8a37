"""Runs the jobs of a sweep, each in a process of its own: one on each device, the rest in turn.

A job that fails stops no other. However the sweep itself ends, no process of a job outlives it.
"""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from skinkd.jobs.failures import last_error
from skinkd.jobs.places import Environment, Places, uses_all
from skinkd.jobs.sweep import FAILED, FINISHED, RUNNING, SKIPPED, STOPPED, TEACHER, WAITING, Job, write_sweep
from skinkd.jobs.view import SweepView, print_sweep

_POLL = 0.2  # s between two looks at the processes
_SHOW = 1.0  # s between two looks at the run folders
_GRACE = 30.0  # s that a job has to end by itself once it is asked to


class Running(Protocol):
    """A job under way."""

    def poll(self) -> int | None:
        """Its exit code once it has ended: negative for a signal."""

    def stop(self, *, kill: bool) -> None:
        """Ask it to end, or end it."""

    @property
    def started(self) -> bool:
        """Whether it runs, rather than stands in a queue."""


Start = Callable[[list[str], Path, Environment, str], Running]
"""Starts a command that appends what it prints to a file, with additions to the environment, under a name."""


class Pool:
    """Starts jobs as places become free, in their order, and waits for them.

    A job waits while another process is training a run that it needs, so that what it needs is there when its turn comes
    and no place stands idle.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        places: Places,
        start: Start,
        *,
        logs: Mapping[Job, Path],
        extra: list[str],
        flags: Sequence[str] = (),
    ) -> None:
        self.jobs, self.places, self.start, self.logs = list(jobs), places, start, logs
        self.extra, self.flags = extra, flags
        self.running: dict[Job, tuple[Running, int | None, int]] = {}  # and its place, and where its log begins
        self.elsewhere: set[Path] = set()  # run folders that another process is in

    def run(self, view: SweepView) -> None:
        """Run every job to its end; a signal to stop ends the jobs first, then this process."""
        for job in self.jobs:
            if job.done:
                job.state = SKIPPED
        with _signals() as received, view:
            shown = 0.0
            while any(job.state in (WAITING, TEACHER, RUNNING) for job in self.jobs):
                self._collect()
                if received:
                    self._stop(received, view)
                    sys.exit(128 + received[0])
                if time.monotonic() - shown >= _SHOW:
                    self._fill(view)
                    self._look()
                    view.update()
                    shown = time.monotonic()
                time.sleep(_POLL)

    def _fill(self, view: SweepView) -> None:
        """Start what can start now."""
        for job in [job for job in self.jobs if job.state == WAITING and job not in self.running]:
            if job.done:  # by another process, meanwhile
                job.state = SKIPPED
                continue
            whole = self.places.gpus and uses_all(job.config, ["any"])
            taken = [place for _, place, _ in self.running.values()]
            free = [number for number in range(len(self.places.places)) if number not in taken]
            if None in taken or not free or (whole and self.running):
                return
            if not self._busy(job, view):
                place = None if whole else free[0]
                self._start(job, place, self.places.whole if whole else self.places.places[free[0]])

    def _busy(self, job: Job, view: SweepView) -> bool:
        """Whether a run that the job needs is being trained, by this sweep or by another process."""
        needed = {stage.folder: stage for stage in job.stages if stage is job.own or not stage.finished}
        if needed.keys() & {stage.folder for other in self.running for stage in other.stages}:
            return True
        held = {folder for folder, stage in needed.items() if stage.held}
        for folder in held - self.elsewhere:
            view.say(f"{job.label} waits for another process, which is running in {folder}")
        self.elsewhere |= held
        return bool(held)

    def _start(self, job: Job, place: int | None, environment: Environment) -> None:
        command = [sys.executable, "-m", "skinkd.train", *self.flags, *job.overrides]
        command += [*(one for one in self.extra if not job.config["group"]), "hydra.mode=RUN"]
        log = self.logs[job]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            file.write(f"\n{time.strftime('%Y-%m-%d %H:%M:%S')}  python {' '.join(command[1:])}\n")
        begin = log.stat().st_size
        self.running[job] = (self.start(command, log, environment, job.folder.name), place, begin)

    def _look(self) -> None:
        for job, (running, _, _) in self.running.items():
            if job.began is None and running.started:
                job.began = time.monotonic()
            if job.began is not None:
                job.seconds = time.monotonic() - job.began
                job.state = RUNNING if job.stage is job.own else TEACHER

    def _collect(self) -> None:
        """Notice what has ended."""
        for job, (running, _, begin) in list(self.running.items()):
            code = running.poll()
            if code is None:
                continue
            del self.running[job]
            job.seconds = time.monotonic() - (job.began or time.monotonic())
            job.code = code
            job.state = FINISHED if code == 0 and job.own.finished else FAILED
            if job.state == FAILED:
                changed = (
                    f"it ended well, but not in {job.folder}: has the code or conf/ changed since the sweep began?"
                )
                job.error = last_error(self.logs[job], begin, code) if code else changed

    def _stop(self, received: list[int], view: SweepView) -> None:
        for running, _, _ in self.running.values():
            running.stop(kill=False)
        view.say(f"stopping {len(self.running)} of {len(self.jobs)} jobs (again to stop at once) ...")
        until = time.monotonic() + _GRACE
        while self.running and time.monotonic() < until and len(received) == 1:
            time.sleep(_POLL)
            for job, (running, _, _) in list(self.running.items()):
                if running.poll() is not None:
                    del self.running[job]
                    job.state = FINISHED if job.own.finished else STOPPED
        for job, (running, _, _) in self.running.items():
            running.stop(kill=True)
            job.state = STOPPED
        view.say("stopped; the same command goes on from the last whole epoch of each job")


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals to stop that have come; one that is ignored, as under nohup, stays so."""
    received: list[int] = []
    numbers = [one for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) != signal.SIG_IGN]
    before = {one: signal.signal(one, lambda number, _: received.append(number)) for one in numbers}
    try:
        yield received
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def run_sweep(
    jobs: Sequence[Job],
    *,
    group: str,
    output: Path,
    metric: str,
    places: Places,
    start: Start,
    flags: Sequence[str] = (),
) -> int:
    """Run the jobs, show them, print their results, and return the number of those that failed.

    ``flags`` come before the overrides in the command of each job.
    """
    folder = output / "sweeps" / group.replace("/", "_")
    write_sweep(folder, group, jobs, output)
    logs = {job: folder / "logs" / f"{job.folder.name}.log" for job in jobs}
    view = SweepView(jobs, at_once=len(places.places), metric=metric)
    count = "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs, {min(len(places.places), len(jobs))} at once"
    view.say(f"{count}; what each prints is in {folder / 'logs'}")
    for job in jobs:
        for label in job.repeats:
            same = "given more than once" if label == job.label else f"the same run as {job.label}"
            view.say(f"{label} is {same}, and runs once")
    Pool(jobs, places, start, logs=logs, extra=[f"group={group}"], flags=flags).run(view)
    print_sweep(jobs, folder=folder, logs=logs)
    return sum(job.state == FAILED for job in jobs)
