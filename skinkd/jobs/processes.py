"""Processes on this machine that end, with all processes that they started, when this process ends."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from skinkd.jobs import keeper


class LocalProcesses:
    """Context that starts commands on this machine, each in a new session. No command outlives the context."""

    def __enter__(self) -> "LocalProcesses":
        self.keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__], stdin=subprocess.PIPE, start_new_session=True, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
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
        with log.open("a") as file:
            process = subprocess.Popen(
                command,
                env=os.environ | changed,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.tell(f"+{process.pid}")
        return LocalProcess(process, self.tell)


class LocalProcess:
    """A process, and the processes that it started: its teacher's, its other ranks."""

    started = True

    def __init__(self, process: "subprocess.Popen[bytes]", tell: Callable[[str], None]) -> None:
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
