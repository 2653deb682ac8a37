"""Real processes that run ``python -m skinkd.train`` or another program, forked from one that has imported its parts.

So they have no start-up time each. The processes that they start themselves, such as the jobs of a sweep or further ranks,
can be forks as well.

A process can be told to act on itself, such as to die by SIGKILL, at an exact call of a function, where a signal from
outside would arrive at another moment each time.
"""

import contextlib
import importlib
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple

import pytest

TIMEOUT = 120
SHARED = "SKINKD_TEST_FORKSERVER"

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["before_fork"])


class Act(NamedTuple):
    """Do ``what`` before the ``call``-th call, counted from 1, of ``where``, written ``module:name.of.function``."""

    where: str
    call: int
    what: Callable[[], object]


class Result(NamedTuple):
    """How a process ended: exit code (negative: the signal), and what it wrote."""

    code: int
    out: str
    err: str


class Running(NamedTuple):
    """A process that has been started, and the files of what it writes."""

    process: Any
    out: Path
    err: Path

    def result(self, timeout: float = TIMEOUT) -> Result:
        """Wait for its end; a process that hangs fails the test."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still running after {timeout} s: {self.out.read_text()}\n{self.err.read_text()}")
        return Result(self.process.exitcode, self.out.read_text(), self.err.read_text())


class Settings(NamedTuple):
    """How a process is started.

    Attributes:
        module: module of the program, or path of its file.
        act: what the process does to itself.
        env: additional environment variables.
        session: whether it leads a new session, so that a signal can reach it and its children alone.
        fork_children: whether the Python programs that it starts are forks of it, without start-up time.
        pictures: whether a run draws its pictures, which take half of the time of a small run.
    """

    module: str = "skinkd.train"
    act: Act | None = None
    env: Mapping[str, str] | None = None
    session: bool = False
    fork_children: bool = False
    pictures: bool = False


def start(arguments: Sequence[str], *, folder: Path, **settings: Any) -> Running:
    """Start ``python -m <module> <arguments>`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    out, err = folder / "stdout.txt", folder / "stderr.txt"
    return Running(fork(_main, list(arguments), folder, out, err, Settings(**settings)), out, err)


def fork(target: Callable[..., object], *arguments: Any) -> Any:
    """Start a process that calls ``target`` in this environment: a fork of one that has done what ``before_fork`` does."""
    if SHARED not in os.environ:
        _start_server()
    elif forkserver._forkserver._forkserver_address != os.environ[SHARED]:  # type: ignore[attr-defined]
        _use_server(os.environ[SHARED])
    process = context.Process(target=_here, args=(dict(os.environ), target, arguments))
    process.start()
    return process


def _here(environment: Mapping[str, str], target: Callable[..., object], arguments: Sequence[Any]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # where the tests run in the background of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)
    target(*arguments)


def _start_server() -> None:
    with pytest.MonkeyPatch.context() as patch:
        # where the process that is forked finds before_fork
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()


def share_server() -> None:
    """Start the process that is forked, for all processes that will run tests: what it imports takes it ten seconds."""
    server = forkserver._forkserver  # type: ignore[attr-defined]
    if not hasattr(server, "_forkserver_authkey"):  # of Python 3.14, where each process starts one
        _start_server()
        os.environ[SHARED] = server._forkserver_address


def _use_server(address: str) -> None:
    server = forkserver._forkserver  # type: ignore[attr-defined]
    server._forkserver_address = address
    server._forkserver_alive_fd = os.open(os.devnull, os.O_RDONLY)  # it lives as long as the process that started it
    server.ensure_running = lambda: None


def run(arguments: Sequence[str], *, folder: Path, timeout: float = TIMEOUT, **settings: Any) -> Result:
    """Run ``python -m skinkd.train <arguments>`` in ``folder`` to its end; the settings are those of ``Settings``."""
    return start(arguments, folder=folder, **settings).result(timeout)


def metrics_of(folder: Path) -> dict[str, Any]:
    """The numbers of a finished run."""
    return json.loads((folder / "metrics.json").read_text())


def only_run(output: Path) -> Path:
    """The one run folder in an output folder."""
    (folder,) = [path.parent for path in output.glob("*/config.yaml")]
    return folder


def _main(arguments: list[str], folder: Path, out: Path, err: Path, settings: Settings) -> None:
    if settings.session:
        os.setsid()
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.pop("WANDB_SERVICE", None)  # W&B's process of the tests would outlive a killed run and keep its id
    os.environ.update(settings.env or {})
    # as in a process of its own; the loading processes of a child of the forkserver would wait for the forkserver
    multiprocessing.set_start_method("fork", force=True)
    if settings.act is not None:
        _arm(settings.act)
    if not settings.pictures:
        for picture in ("plot_curves", "plot_confusion"):
            setattr(importlib.import_module("skinkd.training.scores"), picture, lambda *_, **__: None)
    if settings.fork_children:
        subprocess.Popen = _popen  # type: ignore[assignment,misc]
        import skinkd.jobs.processes

        # forks of this process, which has been prepared already
        skinkd.jobs.processes.LocalProcesses._forked = lambda *_: None  # type: ignore[method-assign]
    sys.path.insert(0, str(folder))  # as -m does
    _run(settings.module, arguments)


def _run(program: str, arguments: list[str]) -> None:
    sys.argv = [program, *arguments]
    sys.stdin = open(os.devnull)  # noqa: SIM115
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        warnings.filterwarnings(
            "ignore", ".*found in sys.modules", RuntimeWarning
        )  # in a process of its own it is not there
        runpy.run_module(program, run_name="__main__", alter_sys=True)


_Popen = subprocess.Popen


def _popen(command: Sequence[str], **settings: Any) -> Any:
    """``subprocess.Popen``, but a fork of this process where the command is ``python -m <module>`` or a file of the tests."""
    python, *words = command
    if python == sys.executable:
        words = words[words[0] == "-u" :]
        if words[0] == "-m":
            return Forked(words[1], words[2:], **settings)
        if words[0].startswith(str(Path(__file__).parent)):
            return Forked(words[0], words[1:], **settings)
    return _Popen(command, **settings)


class Forked:
    """What ``subprocess.Popen`` returns, as far as the project and Lightning use it, for a fork of this process."""

    returncode: int | None

    def __init__(
        self,
        program: str,
        arguments: list[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        start_new_session: bool = False,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        preexec_fn: Callable[[], None] | None = None,
        pass_fds: Sequence[int] = (),
        shell: bool = False,
        encoding: str | None = None,
    ) -> None:
        assert stdin in (None, subprocess.DEVNULL) and not shell
        self.args, self.returncode = [program, *arguments], None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                if start_new_session:
                    os.setsid()
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for number, file in ((1, stdout), (2, stdout if stderr == subprocess.STDOUT else stderr)):
                    if file:
                        os.dup2(file.fileno(), number)
                for number in set(range(3, 1024)) - set(pass_fds):  # as a started process has none of these either
                    with contextlib.suppress(OSError):
                        os.close(number)
                os.chdir(cwd or ".")
                if env is not None:
                    os.environ.clear()
                    os.environ.update(env)
                if preexec_fn is not None:
                    preexec_fn()
                from hydra.core.global_hydra import GlobalHydra

                GlobalHydra.instance().clear()  # a started process has not been configured yet
                _run(program, arguments)
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def poll(self) -> int | None:
        """Exit code; None before the end."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        """Wait for the end."""
        while self.poll() is None:
            time.sleep(0.02)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, *_: object, **__: object) -> tuple[None, None]:
        """Wait for the end, as ``subprocess.run`` does; what the process writes goes elsewhere."""
        self.wait()
        return None, None

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def send_signal(self, number: int) -> None:
        """Signal the process if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM if it has not ended."""
        self.send_signal(signal.SIGTERM)


def _arm(act: Act) -> None:
    module, _, path = act.where.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original, calls = getattr(owner, name), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == act.call:
            act.what()
        return original(*args, **kwargs)

    setattr(owner, name, counted)
