"""An answer in a second: what is slow to import is not imported before it is needed."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

SLOW = (
    *("torch", "lightning", "timm", "albumentations", "wandb", "optuna", "scipy", "matplotlib", "pandas"),
    *("captum", "skimage", "starlette", "uvicorn", "onnx", "onnxruntime"),
)

PROGRAM = """
import json, runpy, sys
from hydra._internal.config_loader_impl import ConfigLoaderImpl
jobs, compose = [], ConfigLoaderImpl.load_sweep_config
def counted(*args, **kwargs):
    jobs.append(args)
    return compose(*args, **kwargs)
ConfigLoaderImpl.load_sweep_config = counted
slow, module, *arguments = json.loads(sys.argv[1])
sys.argv = [module, *arguments]
code = 0
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code or 0
slow = [name for name in slow if name in sys.modules]
print(json.dumps({"code": code, "slow": slow, "jobs": len(jobs)}))
"""


def end_of(module: str, arguments: Sequence[str], *, code: int) -> dict[str, Any]:
    """Run a verb in a fresh process, check its exit code, and return what it has imported and composed.

    ``slow`` are the slow packages that it has imported; ``jobs`` counts the compositions of a sweep's jobs.
    """
    words = json.dumps([SLOW, module, *arguments])
    done = subprocess.run([sys.executable, "-c", PROGRAM, words], capture_output=True, text=True, timeout=120)
    assert done.stdout, done.stderr
    end = json.loads(done.stdout.splitlines()[-1])
    assert end["code"] == code, done.stdout + done.stderr
    return end


def slow_imports(module: str, arguments: Sequence[str], *, code: int) -> list[str]:
    return end_of(module, arguments, code=code)["slow"]


def test_the_program_sees_what_is_imported() -> None:
    assert slow_imports("torch.version", [], code=0) == ["torch"]


VERBS = ["train", "predict", "evaluate", "export", "explain", "compare", "tune", "app", "data"]


@pytest.mark.parametrize("verb", VERBS)
def test_help_imports_nothing_slow(verb: str) -> None:
    assert slow_imports(f"skinkd.{verb}", ["--help"], code=0) == []


def test_the_list_of_verbs_imports_nothing_slow() -> None:
    assert slow_imports("skinkd", [], code=0) == []


@pytest.mark.parametrize(
    ("verb", "word"),
    [
        *(("train", word) for word in ("method=swskdd", "method.temperture=1", "data.image_size=big", "seed")),
        *(("predict", word) for word in ("confromal=0.9", "calibrate=yes", "-m")),
    ],
)
def test_a_wrong_word_imports_nothing_slow(verb: str, word: str) -> None:
    assert slow_imports(f"skinkd.{verb}", [word], code=2) == []


def test_a_finished_run_and_a_finished_sweep_import_nothing_slow(finished: Path, tiny: list[str]) -> None:
    again = [*tiny, f"paths.output_dir={finished.parent}"]
    assert slow_imports("skinkd.train", again, code=0) == []
    sweep = end_of("skinkd.train", ["-m", *again, "seed=0"], code=0)
    assert sweep["slow"] == [] and sweep["jobs"] == 1  # each job is composed once
