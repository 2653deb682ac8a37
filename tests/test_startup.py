"""An answer in a second: what is slow to import is not imported before it is needed."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

SLOW = (
    *("torch", "lightning", "timm", "albumentations", "wandb", "optuna", "scipy", "matplotlib", "pandas"),
    *("captum", "starlette", "uvicorn"),
)

PROGRAM = """
import json, runpy, sys
slow, module, *arguments = json.loads(sys.argv[1])
sys.argv = [module, *arguments]
code = 0
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code or 0
print(json.dumps({"code": code, "slow": [name for name in slow if name in sys.modules]}))
"""


def slow_imports(module: str, arguments: Sequence[str], *, code: int) -> list[str]:
    """Run a verb in a fresh process, check its exit code, and return which slow packages it has imported."""
    words = json.dumps([SLOW, module, *arguments])
    done = subprocess.run([sys.executable, "-c", PROGRAM, words], capture_output=True, text=True, timeout=120)
    assert done.stdout, done.stderr
    end = json.loads(done.stdout.splitlines()[-1])
    assert end["code"] == code, done.stdout + done.stderr
    return end["slow"]


def test_the_program_sees_what_is_imported() -> None:
    assert slow_imports("torch.version", [], code=0) == ["torch"]


@pytest.mark.parametrize("verb", ["train", "evaluate", "export", "compare", "tune", "app", "data"])
def test_help_imports_nothing_slow(verb: str) -> None:
    assert slow_imports(f"skinkd.{verb}", ["--help"], code=0) == []


def test_the_list_of_verbs_imports_nothing_slow() -> None:
    assert slow_imports("skinkd", [], code=0) == []


@pytest.mark.parametrize("words", [["method=swskdd"], ["method.temperture=1"], ["data.image_size=big"], ["seed"]])
def test_a_wrong_word_imports_nothing_slow(words: list[str]) -> None:
    assert slow_imports("skinkd.train", words, code=2) == []


def test_a_finished_run_and_a_finished_sweep_import_nothing_slow(finished: Path, tiny: list[str]) -> None:
    again = [*tiny, f"paths.output_dir={finished.parent}"]
    assert slow_imports("skinkd.train", again, code=0) == []
    assert slow_imports("skinkd.train", ["-m", *again, "seed=0"], code=0) == []
