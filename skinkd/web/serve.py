"""Runs the page's server on this machine until Ctrl-C."""

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from skinkd.errors import UserError
from skinkd.web.server import Limits, make_app, read_texts
from skinkd.web.work import Opened, Task
from skinkd.web.worker import Worker, WorkerError

START_SECONDS = 300
"""Most seconds that opening the network may take, from a cold disk."""
END_SECONDS = 1
"""Seconds that a request may go on after Ctrl-C."""


def serve(
    open_network: Callable[[], Opened],
    *,
    host: str,
    port: int,
    limits: Limits,
    seconds: float,
    memory_mb: int,
    say: Callable[[str], None] = print,
) -> None:
    """Open the network in a worker process, and serve the page until Ctrl-C.

    Args:
        open_network: picklable; the worker process calls it.
        host: a loopback address: whoever reaches the page can use it.
        port: 0 for any free port.
        limits: bounds of a request.
        seconds: most time for an answer; then the worker process is replaced.
        memory_mb: most memory that the answer on an image may take.
        say: prints a line.

    Raises:
        UserError: the address cannot be used, or the network cannot be opened.
    """
    texts = read_texts()["terminal"]
    worker = Worker(Task(open_network, memory_mb), seconds=seconds, start_seconds=START_SECONDS)
    with listen(host, port) as listener, contextlib.suppress(KeyboardInterrupt):
        try:
            say(texts["opening"])
            worker.start()
            name = f"[{host}]" if ":" in host else host
            say(texts["ready"].format(address=f"http://{name}:{listener.getsockname()[1]}/"))
            config = uvicorn.Config(
                make_app(worker, host=host, limits=limits),
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=END_SECONDS,
            )
            _Server(config, worker).run(sockets=[listener])
        except WorkerError as error:
            raise UserError(texts[error.reason].format(seconds=START_SECONDS)) from error
        finally:
            worker.stop()
    say(texts["ended"])


class _Server(uvicorn.Server):
    """A server that gives up the images in work at the first Ctrl-C, so that it need not wait for them."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self.worker = worker

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the worker process, then the server."""
        self.worker.interrupt()
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on this machine alone.

    Raises:
        UserError: the host is no loopback address, or the port is in use or reserved.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise UserError(
            f"host={host} is no address of this machine alone, and the page has no login; give host=127.0.0.1, and reach it "
            f"from elsewhere with ssh -L {port}:127.0.0.1:{port}"
        )
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        return socket.create_server((str(address), port), family=family)
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise UserError(f"port={port} of {host} {reason}; give another, or port=0 for any free port") from error
