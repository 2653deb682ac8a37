"""What a verb's process needs, whatever the shell, notebook or machine that started it has set."""

import ctypes
import os
import sys
import tempfile
from pathlib import Path

_LONGEST_SOCKET = 107  # bytes of a path that a socket takes on Linux
_BELOW_TMPDIR = len("/pymp-12345678/listener-12345678")
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _NEVER = -1, -4, -1  # of malloc.h and mallopt(3)
_OF_THE_USER = {"MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"}


def prepare_process() -> None:
    """Let pictures go to files, an ASCII terminal take any text, the loading processes have a short ``TMPDIR``, and malloc
    keep what is freed.
    """
    os.environ["MPLBACKEND"] = "Agg"  # a notebook names its own, which needs packages that may not be here
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    _shorten_tmpdir()
    keep_freed_memory()


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


def keep_freed_memory() -> None:
    """Let glibc's malloc keep freed memory for the next allocation.

    By default it gives blocks above 32 MiB back to the system at once. Then each step on a CPU has its activations in new
    pages, and the kernel fills these with zeros first, which takes up to half of the step (docs/performance.md). Where the
    user has set one of malloc's variables for it, that holds.
    """
    if _OF_THE_USER & os.environ.keys():
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library than glibc
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
