"""Runs that a sweep forks from a prepared process, and what happens where it cannot."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from train_process import only_run

from skinkd.jobs.processes import TRAIN, Fork, LocalProcess, LocalProcesses

Start = Callable[..., LocalProcess]
WAIT = 90


@pytest.fixture(scope="module")
def processes() -> Iterator[LocalProcesses]:
    with LocalProcesses() as context:
        yield context


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """One for all tests of this file: pytest changes its own with each test, and Lightning with each run."""
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


@pytest.fixture
def start(
    processes: LocalProcesses, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Start:
    def run(*arguments: str, **further: str) -> LocalProcess:
        with monkeypatch.context() as patch:
            patch.setattr(os, "environ", environment)
            return processes.start([*TRAIN, *arguments], tmp_path / "log", further, "job")

    return run


def code_of(process: LocalProcess) -> int:
    until = time.monotonic() + WAIT
    while (code := process.poll()) is None and time.monotonic() < until:
        time.sleep(0.05)
    assert code is not None, "still running"
    return code


def wait_for_the_end(pid: int) -> None:
    """Of a process that is no child of this one; it may stay as a zombie until somebody asks for its exit code."""
    until = time.monotonic() + WAIT
    state = Path(f"/proc/{pid}/stat")
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until, "still running"
        time.sleep(0.05)


def test_a_fork_is_the_run_of_its_command(start: Start, finished: Path, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    process = start(*tiny, f"paths.output_dir={tmp_path / 'forked'}")
    assert isinstance(process.process, Fork)
    assert code_of(process) == 0
    forked = only_run(tmp_path / "forked")
    assert forked.name == finished.name
    assert (forked / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()
    assert f"command python -m skinkd.train {tiny[0]}" in (forked / "environment.txt").read_text()
    assert (tmp_path / "log").read_text().startswith("before\n")


def test_the_exit_code_is_the_commands_also_where_the_system_gives_a_process_number_again(
    start: Start, processes: LocalProcesses, tmp_path: Path
) -> None:
    """It does after some ten thousand processes."""
    last = start("--version")
    assert code_of(last) == 0 and processes.forks
    processes.forks.codes |= {last.process.pid + more: 0 for more in range(1, 2000)}
    assert code_of(start("methd=kd")) == 2
    assert "did you mean 'method'" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_no_fork_but_on_linux(start: Start, monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr("skinkd.jobs.processes.sys.platform", platform)
    assert not isinstance(start("--version").process, Fork)


@pytest.mark.parametrize("kill", [False, True])
def test_it_stops_when_told(start: Start, tiny: list[str], tmp_path: Path, kill: bool) -> None:
    process = start(*tiny, "trainer.max_epochs=500", f"paths.output_dir={tmp_path}")
    assert isinstance(process.process, Fork)
    until = time.monotonic() + WAIT
    # SIGTERM while it trains; SIGKILL needs nothing of the run
    while not kill and not [*tmp_path.glob("*/history.csv")] and time.monotonic() < until:
        time.sleep(0.05)
    process.stop(kill=kill)
    assert code_of(process) == (-signal.SIGKILL if kill else 128 + signal.SIGTERM)
    assert not [*tmp_path.glob("*/metrics.json")]


def test_another_environment_is_a_process_of_its_own(start: Start) -> None:
    process = start("--version", SKINKD_TEST="1")
    assert not isinstance(process.process, Fork)
    assert code_of(process) == 0


def test_no_fork_where_there_is_a_gpu(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skinkd.jobs.processes.visible_gpus", lambda: ["0"])
    assert not isinstance(start("--version").process, Fork)


def test_the_keeper_is_told_of_a_fork(
    start: Start, processes: LocalProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it kills the fork as it kills any process of a sweep that has died, which test_pool.py shows."""
    told: list[str] = []
    tell = processes.tell
    monkeypatch.setattr(processes, "tell", lambda line: (told.append(line), tell(line)))
    fork = start("--version")
    assert isinstance(fork.process, Fork) and told == [f"+{fork.process.pid}"]
    assert code_of(fork) == 0 and told == [f"+{fork.process.pid}", f"-{fork.process.pid}"]


@pytest.mark.slow
def test_no_fork_outlives_the_process_that_started_it(tiny: list[str], tmp_path: Path) -> None:
    """Killed by SIGKILL, it ends no job itself."""
    words = [*TRAIN, *tiny, "trainer.max_epochs=500", f"paths.output_dir={tmp_path}"]
    pid = os.fork()
    if pid == 0:
        context = LocalProcesses().__enter__()
        process = context.start(words, tmp_path / "log", {}, "a")
        (tmp_path / "pid").write_text(str(process.process.pid))
        time.sleep(WAIT)
        os._exit(0)
    until = time.monotonic() + WAIT
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for_the_end(int((tmp_path / "pid").read_text()))


def test_a_prepared_process_that_was_killed_costs_nothing_but_time(
    start: Start, processes: LocalProcesses, tiny: list[str], tmp_path: Path
) -> None:
    first = start(*tiny, "trainer.max_epochs=500", f"paths.output_dir={tmp_path}")
    assert isinstance(first.process, Fork) and processes.forks
    os.kill(processes.forks.process.pid, signal.SIGKILL)
    assert code_of(first) == -signal.SIGKILL
    wait_for_the_end(first.process.pid)
    assert code_of(start("--version")) == 0
    processes.forks.close()
    processes.forks = None  # another test would prepare one again
