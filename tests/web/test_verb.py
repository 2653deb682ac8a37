"""The verb on the command line: each mistake is one sentence, before anything slow is imported."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import train_process

Run = Callable[..., train_process.Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs ``python -m skinkd.app``."""
    return lambda *words, **settings: train_process.run(words, folder=tmp_path, module="skinkd.app", **settings)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "run has no value and needs one; give run=<value>"),
        (["run=x", "port=65536"], "port=65536 is out of range; it must be a whole number between 0 and 65535"),
        (["run=x", "set_level=1"], "set_level=1"),
        (["run=x", "limits.seconds=0"], "limits.seconds=0"),
        (["run=x", "host=0.0.0.0"], "host=0.0.0.0 is no address of this machine alone, and the page has no login"),
        (["run=x", "prot=80"], "prot"),
        (["-m", "run=x,y"], "-m starts several runs, and the page shows one network; leave it out"),
    ],
)
def test_a_mistake_is_one_sentence(run: Run, words: list[str], sentence: str) -> None:
    done = run(*words)
    assert done.code == 2
    assert done.err.startswith("error: ") and sentence in done.err
    assert len(done.err.splitlines()) == 1


def test_a_run_that_is_not_there_is_one_sentence(run: Run) -> None:
    done = run("run=nowhere", "port=0", fork_children=True)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "run=nowhere is neither a run folder" in done.err


def test_without_the_extra_it_says_what_to_install() -> None:
    program = (
        "import sys, runpy; sys.modules['starlette'] = None; sys.argv = ['skinkd.app', 'run=x']; "
        "import importlib.util as u; find = u.find_spec; "
        "u.find_spec = lambda name, *rest: None if name == 'starlette' else find(name, *rest); "
        "runpy.run_module('skinkd.app', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr == "error: python -m skinkd.app needs the package starlette; run pip install 'skinkd[app]'\n"
