"""Kills the jobs of a sweep whose own process was killed, for example by SIGKILL.

The keeper runs in a separate process and session, started by file name, without site packages. The sweep holds the keeper's
standard input open and writes ``+<process group>`` when a job starts and ``-<process group>`` when it has ended. When the
input closes, the keeper kills the groups that have not ended.
"""

import os
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Read standard input until it closes, then kill the groups that are left."""
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line.startswith("+") else groups.discard)(int(line[1:]))
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
