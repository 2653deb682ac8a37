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
import json, os, runpy, sys
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
Hydra.format_config_groups = lambda *_, **__: ""  # of --help; listing them imports nothing, and takes half a second
jobs, compose = [], ConfigLoaderImpl.load_sweep_config
def counted(*args, **kwargs):
    jobs.append(args)
    return compose(*args, **kwargs)
ConfigLoaderImpl.load_sweep_config = counted
slow, commands = json.loads(sys.argv[1])
for module, *arguments in commands:
    sys.stdout.flush()
    if os.fork():
        os.wait()
        continue
    sys.argv = [module, *arguments]
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
    slow = [name for name in slow if name in sys.modules]
    print("\\nend", json.dumps({"code": code, "slow": slow, "jobs": len(jobs)}), flush=True)
    os._exit(0)
"""


def ends_of(*commands: Sequence[str]) -> list[dict[str, Any]]:
    """Run verbs, each in a process that is forked from a fresh one, and return how they end.

    ``code`` is the exit code, ``slow`` are the slow packages that the verb has imported, and ``jobs`` counts the compositions
    of a sweep's jobs.
    """
    words = json.dumps([SLOW, commands])
    done = subprocess.run([sys.executable, "-c", PROGRAM, words], capture_output=True, text=True, timeout=120)
    ends = [json.loads(line.removeprefix("end ")) for line in done.stdout.splitlines() if line.startswith("end {")]
    assert len(ends) == len(commands), done.stdout + done.stderr
    return ends


def quick_end(*, code: int, jobs: int = 0) -> dict[str, Any]:
    return {"code": code, "slow": [], "jobs": jobs}


def test_the_program_sees_what_is_imported() -> None:
    assert ends_of(["scipy.version"], ["skinkd"]) == [quick_end(code=0) | {"slow": ["scipy"]}, quick_end(code=0)]


VERBS = ["train", "predict", "evaluate", "export", "explain", "compare", "tune", "app", "data"]


def test_help_and_the_list_of_verbs_import_nothing_slow() -> None:
    ends = ends_of(["skinkd"], *([f"skinkd.{verb}", "--help"] for verb in VERBS))
    assert dict(zip(["list", *VERBS], ends, strict=True)) == dict.fromkeys(["list", *VERBS], quick_end(code=0))


def test_a_wrong_word_imports_nothing_slow() -> None:
    commands = [
        *(("skinkd.train", word) for word in ("method=swskdd", "method.temperture=1", "data.image_size=big", "seed")),
        *(("skinkd.predict", word) for word in ("confromal=0.9", "calibrate=yes", "-m")),
    ]
    assert dict(zip(commands, ends_of(*commands), strict=True)) == dict.fromkeys(commands, quick_end(code=2))


def test_a_finished_run_and_a_finished_sweep_import_nothing_slow(finished: Path, tiny: list[str]) -> None:
    again = ["skinkd.train", *tiny, f"paths.output_dir={finished.parent}"]
    # each job of the sweep is composed once
    assert ends_of(again, [*again, "-m", "seed=0"]) == [quick_end(code=0), quick_end(code=0, jobs=1)]


@pytest.mark.parametrize(("word", "module"), [("train", "skinkd.train"), ("tarin", "skinkd.<verb>")])
def test_a_verb_behind_the_package_is_told_how_it_is_called(word: str, module: str) -> None:
    done = subprocess.run([sys.executable, "-m", "skinkd", word], capture_output=True, text=True)
    assert done.returncode == 2 and f"python -m {module}, not python -m skinkd {word}" in " ".join(done.stderr.split())


@pytest.mark.parametrize("flags", [[], ["--help"]])
def test_the_package_lists_its_verbs(flags: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "skinkd", *flags], capture_output=True, text=True)
    assert done.returncode == 0 and "python -m skinkd.train" in done.stdout
