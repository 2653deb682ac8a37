"""Ends the jobs of a sweep that has ended without a word, as by SIGKILL: it alone still hears of that.

A process of its own session, started by file name, without site packages. Standard input, which the sweep holds open, says
``+<process group>`` and ``-<process group>``; once it closes, the groups that are left are killed.
"""

import os
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Read until standard input closes, then kill."""
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line.startswith("+") else groups.discard)(int(line[1:]))
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
