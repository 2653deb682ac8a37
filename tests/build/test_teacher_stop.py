"""A command that trains its teacher first, and is asked to stop: the teacher saves its step before both end."""

import os
import signal
import subprocess
import sys
import threading
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


def signal_later(number: int, *seconds: float) -> None:
    for moment in seconds:
        threading.Timer(moment, os.kill, (os.getpid(), number)).start()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)], ids=["SIGTERM", "Ctrl-C"])
def test_the_teacher_saves_first(tmp_path: Path, number: int, code: int) -> None:
    handler, saved = signal.getsignal(number), tmp_path / "saved"
    signal_later(number, 0.1)
    with pytest.raises(SystemExit) as caught:
        _ended(teacher(saved))
    assert caught.value.code == code
    assert saved.exists()
    assert signal.getsignal(number) == handler


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    deaf = TEACHER.replace("time.sleep(0.4)", "time.sleep(60)")
    signal_later(signal.SIGINT, 0.1, 0.5)
    with pytest.raises(SystemExit):
        _ended(teacher(tmp_path / "saved", deaf))
    assert not (tmp_path / "saved").exists()


def test_a_teacher_that_ends_by_itself(tmp_path: Path) -> None:
    assert _ended(teacher(tmp_path / "saved", "import sys; print(); sys.exit(3)")) == 3
