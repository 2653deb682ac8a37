"""A page's server in a process of its own."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

SERVE = """
import sys
import openers
from skinkd.web.serve import serve
from skinkd.web.server import Limits
serve(getattr(openers, sys.argv[1]), host=sys.argv[2], port=int(sys.argv[3]), seconds=float(sys.argv[4]), memory_mb=400,
      limits=Limits(megabytes=1, upload_seconds=float(sys.argv[5]), waiting=2))
"""


class Served:
    """A running server: its process, address and output so far."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUNBUFFERED": "1"}
        folder.mkdir(parents=True, exist_ok=True)
        self.output = ""
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line
            if found := re.match(r"(http://\S+)/ ", line):
                self.address = found[1]
                break

    def interrupt(self) -> int:
        """Press Ctrl-C in the server's terminal; return the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        assert self.process.stdout
        self.output += self.process.stdout.read()
        return self.process.wait(30)


@contextlib.contextmanager
def served(command: Sequence[str], folder: Path) -> Iterator[Served]:
    server = Served(command, folder)
    try:
        assert server.process.poll() is None, server.output
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def behaviour(
    *, host: str = "127.0.0.1", port: int = 0, seconds: float = 20, upload: float = 20, opener: str = "open_behaviour"
) -> list[str]:
    """The command of a server without a network; see openers.py."""
    return [sys.executable, "-c", SERVE, opener, host, str(port), str(seconds), str(upload)]
