"""Runs the jobs of a sweep, each in a separate process: one on each device, the others in turn.

A job that fails does not stop the others. However the sweep ends, no process of a job outlives it.
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
from skinkd.jobs.sweep import (
    FAILED,
    FINISHED,
    RUNNING,
    SKIPPED,
    STOPPED,
    TEACHER,
    WAITING,
    Job,
    last_sign,
    write_sweep,
)
from skinkd.jobs.view import SweepView, print_sweep
from skinkd.runs.files import Lock

_POLL = 0.2  # s between two looks at the processes
_SHOW = 1.0  # s between two looks at the run folders
_GRACE = 30.0  # s that a job gets to end by itself after it is asked to stop


class Running(Protocol):
    """A job that was started."""

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None before the job has ended."""

    def stop(self, *, kill: bool) -> None:
        """Ask the job to end, or kill it."""

    @property
    def started(self) -> bool:
        """Whether the job runs, and does not wait in a queue."""


Start = Callable[[list[str], Path, Environment, str], Running]
"""Starts a command: arguments, file to append its output to, additional environment variables, name."""


class Pool:
    """Starts jobs as places become free, in their order, and waits for them.

    A job waits while another process is training a run that it needs, or while another sweep has claimed its run, and leaves
    its place to the next job. So no place is idle while a job could run.

    Args:
        stall_minutes: a job that shows no progress for so long is named; None: never.
        end_stalled: whether such a job is ended too.
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
        stall_minutes: float | None = None,
        end_stalled: bool = False,
    ) -> None:
        self.jobs, self.places, self.start, self.logs = list(jobs), places, start, logs
        self.extra, self.flags = extra, flags
        # with the number of its place, and the byte where its log begins
        self.running: dict[Job, tuple[Running, int | None, int]] = {}
        self.elsewhere: set[Path] = set()  # run folders in which another process runs
        self.claims: dict[
            Job, Lock
        ] = {}  # from before a job's process starts, which locks its folder later, until its end
        self.stall_minutes, self.end_stalled = stall_minutes, end_stalled
        self.stalled: set[Job] = set()

    def run(self, view: SweepView) -> None:
        """Run every job to its end. A signal to stop ends first the jobs, then this process."""
        for job in self.jobs:
            if job.done:
                job.state = SKIPPED
        with _signals() as received, view:
            shown = 0.0
            while any(job.state in (WAITING, TEACHER, RUNNING) for job in self.jobs):
                ended = self._collect()
                if received:
                    self._stop(received, view)
                    sys.exit(128 + received[0])
                if ended or time.monotonic() - shown >= _SHOW:
                    self._fill(view)
                    self._look()
                    self._name_stalled(view)
                    view.update()
                    shown = time.monotonic()
                time.sleep(_POLL)

    def _fill(self, view: SweepView) -> None:
        """Start the jobs that can start now."""
        for job in [job for job in self.jobs if job.state == WAITING and job not in self.running]:
            if job.done:  # another process has finished it meanwhile
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
        """Return whether this sweep or another process is training a run that the job needs."""
        needed = {stage.folder: stage for stage in job.stages if stage is job.own or not stage.finished}
        if needed.keys() & {stage.folder for running in self.running for stage in running.stages}:
            return True
        held = {folder for folder, stage in needed.items() if stage.held}
        if not held and not self._claim(job):
            held = {job.folder}
        for folder in held - self.elsewhere:
            view.say(f"{job.label} waits for another process, which is running in {folder}")
        self.elsewhere |= held
        return bool(held)

    def _claim(self, job: Job) -> bool:
        """Take a job's run for this sweep; return False if another sweep has it."""
        lock = Lock(job.folder.parent / f".{job.folder.name}.sweep-lock")
        lock.path.parent.mkdir(parents=True, exist_ok=True)
        if not lock.take():
            return False
        self.claims[job] = lock
        return True

    def _start(self, job: Job, place: int | None, environment: Environment) -> None:
        command = [sys.executable, "-m", "skinkd.train", *self.flags, *job.overrides]
        command += [*([] if job.config["group"] else self.extra), "hydra.mode=RUN"]
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

    def _name_stalled(self, view: SweepView) -> None:
        """Name the jobs that show no progress, and end them if asked."""
        if self.stall_minutes is None:
            return
        for job, (running, _, _) in self.running.items():
            if job.began is None:  # in the queue of a cluster
                continue
            still = min(job.seconds, time.time() - last_sign(job, self.logs[job]))
            if still < 60 * self.stall_minutes:
                self.stalled.discard(job)
            elif job not in self.stalled:
                self.stalled.add(job)
                ended = "it is ended" if self.end_stalled else "sweep.end_stalled=true ends such jobs"
                view.say(
                    f"{job.label} has made no progress for {self.stall_minutes:g} minutes, neither an epoch, a checkpoint nor "
                    f"output in {self.logs[job]}; {ended}"
                )
                if self.end_stalled:
                    running.stop(kill=True)

    def _collect(self) -> bool:
        """Take note of the jobs that have ended; return whether there are any."""
        before = len(self.running)
        for job, (running, _, begin) in list(self.running.items()):
            code = running.poll()
            if code is None:
                continue
            del self.running[job]
            self.claims.pop(job).release()
            job.seconds = time.monotonic() - (job.began or time.monotonic())
            job.code = code
            job.state = FINISHED if code == 0 and job.own.finished else FAILED
            if job.state == FAILED:
                unfinished = (
                    f"its exit code is 0, but {job.folder} is not finished; was the code or conf/ changed meanwhile?"
                )
                job.error = last_error(self.logs[job], begin, code) if code else unfinished
                if job in self.stalled and self.end_stalled:
                    job.error = f"ended, because it made no progress for {self.stall_minutes:g} minutes"
        return len(self.running) < before

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
        view.say("stopped; the same command goes on from the last checkpoint of each job")


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals to stop in a list. A signal that was ignored before, as under nohup, stays ignored."""
    received: list[int] = []
    stopping = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    caught = [number for number in stopping if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in caught}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_sweep(
    jobs: Sequence[Job],
    *,
    group: str,
    output: Path,
    metric: str,
    places: Places,
    start: Start,
    flags: Sequence[str] = (),
    stall_minutes: float | None = None,
    end_stalled: bool = False,
) -> int:
    """Run the jobs, show them, print their results, and return the number of failed jobs.

    ``flags`` come before the overrides in the command of each job. ``stall_minutes`` and ``end_stalled`` are those of Pool.
    """
    folder = output / "sweeps" / group.replace("/", "_")
    write_sweep(folder, group, jobs, output)
    logs = {job: folder / "logs" / f"{job.folder.name}.log" for job in jobs}
    view = SweepView(jobs, at_once=len(places.places), metric=metric)
    count = "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs, {min(len(places.places), len(jobs))} at once"
    view.say(f"{count}; their output is in {folder / 'logs'}")
    for job in jobs:
        for label in job.repeats:
            same = "given more than once" if label == job.label else f"the same run as {job.label}"
            view.say(f"{label} is {same}, and runs once")
    pool = Pool(
        jobs,
        places,
        start,
        logs=logs,
        extra=[f"group={group}"],
        flags=flags,
        stall_minutes=stall_minutes,
        end_stalled=end_stalled,
    )
    pool.run(view)
    print_sweep(jobs, folder=folder, logs=logs)
    return sum(job.state == FAILED for job in jobs)
