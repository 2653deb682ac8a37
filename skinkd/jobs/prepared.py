"""A process that has imported what training needs, and becomes the process of each job of a sweep by forking.

Importing PyTorch and Lightning takes seconds of processor time, more than a short run trains. A fork has them at once.

The sweep writes a line of JSON for each job to standard input, and reads lines of JSON from standard output: ``[pid]`` when
the job has started, and ``[pid, exit code]`` when it has ended. When the input closes, the process ends.
"""

import contextlib
import gc
import json
import os
import runpy
import selectors
import signal
import sys
from typing import Any


def main() -> None:
    """Import, then serve until standard input closes. In a forked process, run the job and return."""
    import skinkd.config.cli
    import skinkd.training.run  # noqa: F401

    gc.collect()
    gc.freeze()  # a collection in a fork would copy the memory that it shares
    job = _serve()
    if job is not None:
        _become(job)


def _serve() -> dict[str, Any] | None:
    """Start the jobs and tell their ends. Return None when standard input closes, and in a forked process the job."""
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    for source in (0, ended):
        selector.register(source, selectors.EVENT_READ)
    asked = b""
    while True:
        ready = [key.fd for key, _ in selector.select()]
        if 0 in ready:
            read = os.read(0, 65536)
            if not read:
                return None
            *lines, asked = (asked + read).split(b"\n")
            for line in lines:
                pid = _fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    selector.close()
                    os.close(ended)
                    os.close(wake)
                    job: dict[str, Any] = json.loads(line)
                    return job
                _tell(pid)
        if ended in ready:
            os.read(ended, 65536)
            _tell_ends()


def _fork() -> int:
    """Fork; return 0 in the new process, which leads a session of its own before this function returns in either."""
    leads, led = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
    os.close(led)
    if pid:
        os.read(leads, 1)  # ends when the new process has closed its end too
    os.close(leads)
    return pid


def _tell_ends() -> None:
    with contextlib.suppress(ChildProcessError):
        while (end := os.waitpid(-1, os.WNOHANG))[0]:
            _tell(end[0], os.waitstatus_to_exitcode(end[1]))


def _tell(*message: int) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def _become(job: dict[str, Any]) -> None:
    """Run the command ``python -m skinkd.train …`` in this process, its output appended to the job's log."""
    log = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((nothing, log, log)):
        os.dup2(file, number)
    os.close(nothing)
    os.close(log)
    sys.orig_argv = job["command"]
    sys.argv = job["command"][2:]
    runpy.run_module("skinkd.train", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
