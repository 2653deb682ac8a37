"""Real processes that run ``python -m skinkd.train`` or another module, forked from one that has imported its parts.

So they have no start-up time each.

A process can be told to act on itself, such as to die by SIGKILL, at an exact call of a function, where a signal from
outside would arrive at another moment each time.
"""

import importlib
import json
import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TIMEOUT = 120

_context = multiprocessing.get_context("forkserver")
# all but skinkd.train itself, which runs as __main__
_context.set_forkserver_preload(["skinkd.config.cli", "skinkd.training.run"])


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


def start(
    arguments: Sequence[str],
    *,
    folder: Path,
    module: str = "skinkd.train",
    act: Act | None = None,
    env: Mapping[str, str] | None = None,
) -> Running:
    """Start ``python -m <module> <arguments>`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    out, err = folder / "stdout.txt", folder / "stderr.txt"
    process = _context.Process(target=_main, args=(module, list(arguments), folder, out, err, act, dict(env or {})))
    process.start()
    return Running(process, out, err)


def run(arguments: Sequence[str], *, folder: Path, **settings: Any) -> Result:
    """Run ``python -m skinkd.train <arguments>`` in ``folder`` to its end; the settings are those of ``start``."""
    return start(arguments, folder=folder, **settings).result()


def metrics_of(folder: Path) -> dict[str, Any]:
    """The numbers of a finished run."""
    return json.loads((folder / "metrics.json").read_text())


def only_run(output: Path) -> Path:
    """The one run folder in an output folder."""
    (folder,) = [path.parent for path in output.glob("*/config.yaml")]
    return folder


def _main(
    module: str, arguments: list[str], folder: Path, out: Path, err: Path, act: Act | None, env: dict[str, str]
) -> None:
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.update(env)
    # as in a process of its own; the loading processes of a child of the forkserver would wait for the forkserver
    multiprocessing.set_start_method("fork", force=True)
    if act is not None:
        _arm(act)
    sys.argv = [module, *arguments]
    sys.path.insert(0, str(folder))  # as -m does
    sys.stdin = open(os.devnull)  # noqa: SIM115
    runpy.run_module(module, run_name="__main__", alter_sys=True)


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
