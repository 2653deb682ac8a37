"""The process that opens images for the page. It is started with limits, and may be killed at any moment.

Messages come and go through one connection. The first is the pickled function that opens the network. Each later message is
the bytes of an image. Every answer is JSON, which the server can read without executing anything.
"""

import json
import os
import resource
import select
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from skinkd.errors import UserError

MEGABYTE = 2**20


class Opened(NamedTuple):
    """What the page needs of an open network.

    Attributes:
        about: plain values that describe the network, sent once.
        answer: takes the bytes of an image and returns plain values; raises UserError for bytes that are no usable image.
    """

    about: dict[str, Any]
    answer: Callable[[bytes], dict[str, Any]]


class Task(NamedTuple):
    """The first message: how to open the network, and the memory that an image may take beyond that, in MB."""

    open: Callable[[], Opened]
    memory_mb: int


def main(descriptor: int) -> None:
    """Open the network, then answer until the server closes the connection."""
    threading.Thread(target=_end_with_server, args=(descriptor,), daemon=True).start()
    with Connection(descriptor) as connection:
        task: Task = connection.recv()
        try:
            opened = task.open()
        except UserError as error:
            _send(connection, {"refused": str(error)})
            return
        limit_process(task.memory_mb)
        _send(connection, {"about": opened.about})
        while True:
            try:
                image = connection.recv_bytes()
            except EOFError:
                return
            _send(connection, _answer(opened, image))


def limit_process(memory_mb: int) -> None:
    """Let this process take ``memory_mb`` more memory, write no file and leave no core dump.

    The memory is limited where /proc says how much the process has, which is on Linux.
    """
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    pages = Path("/proc/self/statm")
    if pages.exists():
        now = int(pages.read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
        most = now + memory_mb * MEGABYTE
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _end_with_server(descriptor: int) -> None:
    """End this process, whatever it does, when the server's end of the connection closes."""
    closed = select.poll()
    closed.register(descriptor, 0)  # a hang-up is always reported
    closed.poll()
    os._exit(1)


def _answer(opened: Opened, image: bytes) -> dict[str, Any]:
    try:
        return {"answer": opened.answer(image)}
    except UserError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"failed": "memory"}
    except Exception:
        # PyTorch and OpenCV have no class of error for "no memory"
        trace = traceback.format_exc()
        if "can't allocate memory" in trace or "Insufficient memory" in trace:
            return {"failed": "memory"}
        return {"failed": "fault", "trace": trace}  # this process may not write to a terminal that is a file


def _send(connection: Connection, message: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(message, allow_nan=False).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
