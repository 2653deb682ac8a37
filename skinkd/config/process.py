"""What a verb's process needs, whatever the shell, notebook or machine that started it has set."""

import os
import sys
import tempfile
from pathlib import Path

_LONGEST_SOCKET = 107  # bytes of a path that a socket takes on Linux
_BELOW_TMPDIR = len("/pymp-12345678/listener-12345678")


def prepare_process() -> None:
    """Let pictures go to files, an ASCII terminal take any text, and the loading processes have a short ``TMPDIR``."""
    os.environ["MPLBACKEND"] = "Agg"  # a notebook names its own, which needs packages that may not be here
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    _shorten_tmpdir()


def _shorten_tmpdir() -> None:
    """Use another folder for temporary files if the sockets of the loading processes do not fit into ``TMPDIR``.

    PyTorch's loading processes would wait without end.
    """
    given = tempfile.gettempdir()
    if len(os.fsencode(given)) + _BELOW_TMPDIR <= _LONGEST_SOCKET:
        return
    for place in ("/tmp", "/var/tmp"):
        if Path(place).is_dir() and os.access(place, os.W_OK):
            os.environ["TMPDIR"] = tempfile.tempdir = place
            print(f"TMPDIR={given} is too long for sockets; {place} is used", file=sys.stderr)
            return
