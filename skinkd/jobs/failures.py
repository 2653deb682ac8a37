"""Why a process failed, read from its log."""

import re
import signal
from pathlib import Path


def last_error(log: Path, begin: int, code: int) -> str:
    """Return why a process failed: its first ``error:`` line, else the last line of its traceback, else its signal.

    Args:
        log: the file with the process's output.
        begin: byte of the log at which this process's output begins.
        code: exit code, negative for a signal.
    """
    with log.open("rb") as file:
        file.seek(begin)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    sentences = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    raised = [line for line in lines if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b", line)]
    if sentences:
        return sentences[0]  # if the teacher failed, its sentence; the student's sentence comes later and adds nothing
    if raised:  # "by peer" is the error of a process that lost contact to the failed process; it does not say why
        return ([line for line in raised if "by peer" not in line] or raised)[-1]
    if code < 0:
        killed = f"killed by {signal.Signals(-code).name}"
        return f"{killed}, perhaps because the machine ran out of memory" if -code == signal.SIGKILL else killed
    return lines[-1] if lines else f"ended with exit code {code} and printed nothing"
