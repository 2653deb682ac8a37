"""The worker process: it answers, is limited, and is replaced when it fails."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openers
import pytest

from skinkd.errors import UserError
from skinkd.web.work import Opened, Task
from skinkd.web.worker import Worker, WorkerError

MEMORY_MB = 400


def make(
    open_network: Callable[[], Opened] = openers.open_behaviour, *, seconds: float = 20, start: float = 60
) -> Worker:
    return Worker(Task(open_network, MEMORY_MB), seconds=seconds, start_seconds=start)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = make()
    worker.start()
    yield worker
    worker.stop()


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended may still wait for its parent."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def reason(worker: Worker, image: bytes) -> str:
    with pytest.raises(WorkerError) as failed:
        worker.ask(image)
    return failed.value.reason


def test_it_answers_in_another_process(worker: Worker) -> None:
    first, second = worker.ask(b"one"), worker.ask(b"three")
    assert (first["bytes"], second["bytes"]) == (3, 5)
    assert first["process"] == second["process"] != os.getpid()
    assert worker.about["network"] == "a network of the tests"


def test_a_refused_image_is_a_sentence(worker: Worker) -> None:
    with pytest.raises(UserError, match=r"^the image is a drawing$"):
        worker.ask(b"refuse")


@pytest.mark.parametrize(("image", "why"), [(b"memory", "memory"), (b"native-memory", "memory"), (b"fault", "fault")])
def test_an_error_inside_leaves_the_process(worker: Worker, image: bytes, why: str) -> None:
    before = worker.ask(b"one")["process"]
    assert reason(worker, image) == why
    assert worker.ask(b"one")["process"] == before


def test_a_process_that_dies_is_replaced(worker: Worker) -> None:
    before = worker.ask(b"one")["process"]
    assert reason(worker, b"crash") == "crashed"
    assert worker.ask(b"one")["process"] != before
    assert not alive(before)


def test_it_writes_no_file(worker: Worker, tmp_path: Path) -> None:
    assert reason(worker, f"write {tmp_path}/image".encode()) == "fault"
    assert not (tmp_path / "image").exists() or (tmp_path / "image").stat().st_size == 0


def test_an_image_that_takes_too_long_is_given_up() -> None:
    worker = make(seconds=1)
    worker.start()
    before = worker.ask(b"one")["process"]
    began = time.monotonic()
    assert reason(worker, b"hang") == "timeout"
    assert time.monotonic() - began < 5
    assert not alive(before)
    assert worker.ask(b"one")["process"] != before
    worker.stop()


def test_images_of_several_threads_come_one_after_the_other(worker: Worker) -> None:
    answers: dict[int, int] = {}

    def ask(size: int) -> None:
        answers[size] = worker.ask(b"slow" + b" " * size)["bytes"]

    threads = [threading.Thread(target=ask, args=(size,)) for size in range(1, 4)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {size: size + 4 for size in range(1, 4)}
    assert time.monotonic() - began > 3 * 0.3


@pytest.mark.parametrize("image", [b"hang", b"one"])
def test_stop_ends_it_whatever_it_does(image: bytes) -> None:
    worker = make(seconds=60)
    worker.start()
    process = worker.ask(b"one")["process"]
    asking = threading.Thread(target=lambda: reason(worker, image) if image == b"hang" else worker.ask(image))
    asking.start()
    time.sleep(0.3)
    worker.stop()
    asking.join(5)
    assert not asking.is_alive()
    assert not alive(process)
    assert reason(worker, b"one") == "stopped"


def test_a_network_that_cannot_be_opened_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"^run=nowhere is neither a run folder nor a checkpoint$"):
        make(openers.open_nothing).start()


@pytest.mark.parametrize(("opener", "why"), [(openers.open_and_die, "crashed"), (openers.open_never, "timeout")])
def test_a_start_that_fails_is_told(opener: Callable[[], Opened], why: str) -> None:
    with pytest.raises(WorkerError) as failed:
        make(opener, start=1.5 if why == "timeout" else 60).start()
    assert failed.value.reason == why


PROGRAM = """
import sys, time
import openers
from skinkd.web.work import Task
from skinkd.web.worker import Worker
worker = Worker(Task(openers.open_behaviour, 400), seconds=600, start_seconds=60)
worker.start()
print(worker.ask(b"one")["process"], flush=True)
worker.ask(sys.argv[1].encode())
time.sleep(600)
"""


@pytest.mark.parametrize("image", ["hang", "one"])
def test_it_ends_with_a_server_that_is_killed(image: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", PROGRAM, image], stdout=subprocess.PIPE, env=environment) as server:
        assert server.stdout
        process = int(server.stdout.readline())
        time.sleep(0.3)
        server.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while alive(process) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(process)
