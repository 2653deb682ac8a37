"""Real processes that run ``python -m skinkd.train``, forked from one that has imported its parts: no start-up time each.

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


def run(
    arguments: Sequence[str], *, folder: Path, act: Act | None = None, env: Mapping[str, str] | None = None
) -> Result:
    """Run ``python -m skinkd.train <arguments>`` in ``folder`` to its end; a process that hangs fails the test."""
    folder.mkdir(parents=True, exist_ok=True)
    out, err = folder / "stdout.txt", folder / "stderr.txt"
    process = _context.Process(target=_main, args=(list(arguments), folder, out, err, act, dict(env or {})))
    process.start()
    process.join(TIMEOUT)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"still running after {TIMEOUT} s: {out.read_text()}\n{err.read_text()}")
    return Result(process.exitcode, out.read_text(), err.read_text())


def metrics_of(folder: Path) -> dict[str, Any]:
    """The numbers of a finished run."""
    return json.loads((folder / "metrics.json").read_text())


def only_run(output: Path) -> Path:
    """The one run folder in an output folder."""
    (folder,) = [path.parent for path in output.glob("*/config.yaml")]
    return folder


def _main(arguments: list[str], folder: Path, out: Path, err: Path, act: Act | None, env: dict[str, str]) -> None:
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.update(env)
    if act is not None:
        _arm(act)
    sys.argv = ["skinkd.train", *arguments]
    sys.stdin = open(os.devnull)  # noqa: SIM115
    runpy.run_module("skinkd.train", run_name="__main__", alter_sys=True)


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
