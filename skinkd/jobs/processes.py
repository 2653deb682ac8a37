"""Processes on this machine that end, with all processes that they started, when this process ends."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from skinkd.jobs import keeper
from skinkd.jobs.places import visible_gpus

TRAIN = [sys.executable, "-m", "skinkd.train"]


class Process(Protocol):
    """A process of a job, as ``subprocess.Popen`` gives it."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit code, None before the end."""

    def wait(self) -> int:
        """Wait for the end and return the exit code."""


class Forks:
    """Starts training runs as forks of a process that has imported what they need (:mod:`skinkd.jobs.prepared`)."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.codes: dict[int, int | None] = {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "skinkd.jobs.prepared"],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )

    def start(self, command: list[str], log: Path) -> "Fork | None":
        """Start a command; None if the prepared process has ended, as it does where something cannot be imported."""
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps({"command": command, "log": str(log.absolute())}).encode() + b"\n")
        except BrokenPipeError:
            return None
        while message := self.read():
            if len(message) == 1:  # of a start; ends of other forks may come before it
                return Fork(message[0], self)
        return None

    def read(self) -> list[int]:
        """Read a message of the prepared process and return it; [] if the process has ended, and the forks with it."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self.codes = {pid: -signal.SIGKILL if code is None else code for pid, code in self.codes.items()}
            return []
        message: list[int] = json.loads(line)
        self.codes[message[0]] = message[1] if len(message) == 2 else None
        return message

    def close(self) -> None:
        """Let the prepared process end."""
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Fork:
    """A process that was forked."""

    def __init__(self, pid: int, forks: Forks) -> None:
        self.pid, self.forks = pid, forks

    def poll(self) -> int | None:
        """Return the exit code, None before the end."""
        assert self.forks.process.stdout
        while self.forks.codes[self.pid] is None and select.select([self.forks.process.stdout], [], [], 0)[0]:
            self.forks.read()
        return self.forks.codes[self.pid]

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        while (code := self.forks.codes[self.pid]) is None:
            self.forks.read()
        return code


class LocalProcesses:
    """Context that starts commands on this machine, each in a new session. No command outlives the context.

    On Linux, training runs are forks of a prepared process, but not on a machine with a GPU: a process that has asked for the
    GPUs cannot be forked, and libraries may ask when they are imported. On macOS system libraries forbid it.
    """

    def __init__(self) -> None:
        self.forks: Forks | None = None

    def __enter__(self) -> "LocalProcesses":
        self.keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__], stdin=subprocess.PIPE, start_new_session=True, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self.forks:
            self.forks.close()
        assert self.keeper.stdin
        with contextlib.suppress(BrokenPipeError):
            self.keeper.stdin.close()
        self.keeper.wait()

    def tell(self, line: str) -> None:
        """Send the keeper a line (see :mod:`skinkd.jobs.keeper`)."""
        assert self.keeper.stdin
        with contextlib.suppress(BrokenPipeError):
            self.keeper.stdin.write(f"{line}\n")
            self.keeper.stdin.flush()

    def start(self, command: list[str], log: Path, environment: Mapping[str, str], name: str) -> "LocalProcess":
        """Start a command that appends its output to ``log``. OMP_NUM_THREADS stays if the user has set it."""
        kept = ["OMP_NUM_THREADS"] if "OMP_NUM_THREADS" in os.environ else []
        changed = {key: value for key, value in environment.items() if key not in kept}
        process = self._forked(command, log, os.environ | changed) or self._started(command, log, os.environ | changed)
        self.tell(f"+{process.pid}")
        return LocalProcess(process, self.tell)

    def _started(self, command: list[str], log: Path, environment: Mapping[str, str]) -> Process:
        with log.open("a") as file:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _forked(self, command: list[str], log: Path, environment: Mapping[str, str]) -> Process | None:
        """Fork a training run; None where it cannot be forked: another command, machine or environment than the first."""
        if command[:3] != TRAIN or sys.platform != "linux" or visible_gpus():
            return None
        if self.forks is None:
            self.forks = Forks(environment)
        return self.forks.start(command, log) if environment == self.forks.environment else None


class LocalProcess:
    """A process, and the processes that it started: its teacher's, its other ranks."""

    started = True

    def __init__(self, process: Process, tell: Callable[[str], None]) -> None:
        self.process, self.tell = process, tell

    def poll(self) -> int | None:
        """Return the exit code, None before the end. At the end, kill the processes that it started."""
        code = self.process.poll()
        if code is not None:
            self._signal(signal.SIGKILL)
            self.tell(f"-{self.process.pid}")
        return code

    def stop(self, *, kill: bool) -> None:
        """Send SIGTERM, or SIGKILL, to the process and those that it started."""
        self._signal(signal.SIGKILL if kill else signal.SIGTERM)
        if kill:
            self.process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)
