"""The server's side of the process that opens images: it starts the process, asks it, and replaces it when it fails."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from skinkd.errors import UserError
from skinkd.web.work import Task


def _environment() -> dict[str, str]:
    # the worker imports what the server can import; and its threads share two reserves of memory, which count as taken
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "MALLOC_ARENA_MAX": "2"}


class WorkerError(Exception):
    """There is no answer; ``reason`` is "timeout", "crashed", "memory", "fault" or "stopped"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Worker:
    """One process that answers one image after the other.

    A process that takes too long or dies is replaced at once; the next image waits until the network is open again.
    The process ends with the server, also if the server is killed: then its connection closes. All methods may be called
    from any thread.
    """

    def __init__(self, task: Task, *, seconds: float, start_seconds: float) -> None:
        self.about: dict[str, Any] = {}
        self._task, self._seconds, self._start_seconds = task, seconds, start_seconds
        self._one_image = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._open = False
        self._stopped = False

    def start(self) -> None:
        """Start the process and wait until the network is open; then ``about`` describes the network.

        Raises:
            UserError: the network cannot be opened.
            WorkerError: the process died, or was not ready in time.
        """
        with self._one_image:
            self._begin()
            self._wait_until_open()

    def ask(self, image: bytes) -> dict[str, Any]:
        """Return the answer on the bytes of an image.

        Raises:
            UserError: the bytes are no usable image.
            WorkerError: there is no answer.
        """
        with self._one_image:
            if self._process is None:
                self._begin()
            if not self._open:
                self._reopen()
            try:
                reply = self._exchange(image, self._seconds)
            except WorkerError:
                self._end()
                self._begin()
                raise
        if "failed" in reply:
            print(reply.get("trace", ""), end="", file=sys.stderr, flush=True)
            raise WorkerError(reply["failed"])
        if "refused" in reply:
            raise UserError(reply["refused"])
        return reply["answer"]

    def interrupt(self) -> None:
        """End the process, whatever it does, without waiting: images that wait or are being answered get no answer."""
        self._stopped = True
        self._kill()

    def stop(self) -> None:
        """End the process, whatever it does, and wait for its end."""
        self.interrupt()
        with self._one_image:
            self._end()

    def _begin(self) -> None:
        if self._stopped:
            raise WorkerError("stopped")
        ours, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "skinkd.web.work", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is for the server
                env=os.environ | _environment(),
            )
        self._connection, self._open = ours, False
        with contextlib.suppress(OSError):  # it has died already; whoever waits for it is told
            ours.send(self._task)

    def _wait_until_open(self) -> None:
        try:
            reply = self._exchange(None, self._start_seconds)
            if "refused" in reply:
                raise UserError(reply["refused"])
        except (UserError, WorkerError):
            self._end()
            raise
        self.about, self._open = reply["about"], True

    def _reopen(self) -> None:
        try:
            self._wait_until_open()
        except UserError as error:  # the run folder has gone since the first start
            print(f"error: {error}", file=sys.stderr, flush=True)
            raise WorkerError("crashed") from error

    def _exchange(self, image: bytes | None, seconds: float) -> dict[str, Any]:
        """Send an image, if there is one, and return the next message; the process is killed after ``seconds``."""
        assert self._connection
        with self._deadline(seconds) as late:
            try:
                if image is not None:
                    self._connection.send_bytes(image)
                return json.loads(self._connection.recv_bytes())
            except (EOFError, OSError, ValueError):
                raise WorkerError("timeout" if late.is_set() else "crashed") from None

    @contextlib.contextmanager
    def _deadline(self, seconds: float) -> Iterator[threading.Event]:
        late = threading.Event()

        def end() -> None:
            late.set()
            self._kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()

    def _kill(self) -> None:
        process = self._process
        if process and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _end(self) -> None:
        self._kill()
        if self._process:
            self._process.wait()
        if self._connection:
            self._connection.close()
        self._process = self._connection = None
