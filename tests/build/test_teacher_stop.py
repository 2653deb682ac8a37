"""A command that trains its teacher first, and is asked to stop: the teacher saves its step before both end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skinkd.build.teachers import _ended

TEACHER = """
import signal, sys, time
def stop(*_):
    time.sleep(0.4)
    open(sys.argv[1], "w").close()
    sys.exit(143)
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, stop)
print(flush=True)
time.sleep(60)
"""


def teacher(saved: Path, code: str = TEACHER) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-S", "-c", code, str(saved)], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    return process


def signal_when_heard(number: int, times: int = 1) -> object:
    """Send this process a signal as soon as it waits for the teacher; return the handler that it has before and after."""

    def nothing(*_: object) -> None:
        pass

    def send() -> None:
        while signal.getsignal(number) is nothing:
            time.sleep(0.02)
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.5)

    signal.signal(number, nothing)
    threading.Thread(target=send, daemon=True).start()
    return nothing


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)], ids=["SIGTERM", "Ctrl-C"])
def test_the_teacher_saves_first(tmp_path: Path, number: int, code: int) -> None:
    process, saved = teacher(tmp_path / "saved"), tmp_path / "saved"
    handler = signal_when_heard(number)
    with pytest.raises(SystemExit) as caught:
        _ended(process)
    assert caught.value.code == code
    assert saved.exists()
    assert signal.getsignal(number) is handler


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    process = teacher(tmp_path / "saved", TEACHER.replace("time.sleep(0.4)", "time.sleep(60)"))
    signal_when_heard(signal.SIGINT, times=2)
    with pytest.raises(SystemExit):
        _ended(process)
    assert not (tmp_path / "saved").exists()


def test_a_teacher_that_ends_by_itself(tmp_path: Path) -> None:
    assert _ended(teacher(tmp_path / "saved", "import sys; print(); sys.exit(3)")) == 3
