"""The ten commands of docs/tutorial.md, as they stand there."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pandas as pd
import pytest
from hydra import compose, initialize_config_module

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
COMMANDS = [block.strip() for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)]


def words(command: str) -> list[str]:
    found = shlex.split(command)
    assert found[:2] == ["python", "-m"], command
    return [sys.executable, *found[1:]]


def test_there_are_ten_commands_of_one_line() -> None:
    assert len(COMMANDS) == 10
    assert [command for command in COMMANDS if "\n" in command] == []


@pytest.mark.parametrize("number", range(10))
def test_every_setting_of_the_tutorial_exists(number: int) -> None:
    module, *rest = shlex.split(COMMANDS[number])[2:]
    verb = module.removeprefix("skinkd.")
    if verb == "compare":
        return
    if verb == "data":
        verb, rest = "data_verbs", rest[1:]
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        compose(verb, overrides=rest)


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("SKINKD_OUTPUT_DIR", None)
    for command in COMMANDS[:-1]:
        done = subprocess.run(
            words(command), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    outputs = tmp_path / "outputs"
    assert len(pd.read_csv(outputs / "predictions.csv")) == 600
    assert (outputs / "comparison" / "report.html").is_file()
    assert (outputs / "distilled" / "explanations" / "scores.json").is_file()
    golden = json.loads((outputs / "distilled" / "export" / "golden.json").read_text())
    assert len(pd.read_csv(outputs / "golden.csv")) == len(golden) == 3

    with subprocess.Popen(
        [*words(COMMANDS[-1]), "port=0"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        address = next(line.split()[0] for line in server.stdout if line.startswith("http"))
        image = next((outputs / "distilled" / "export" / "golden").iterdir()).read_bytes()
        answer = httpx.post(f"{address}predict", content=image, timeout=120, trust_env=False).json()
        assert sum(one["probability"] for one in answer["classes"]) == pytest.approx(1, abs=1e-4)
        assert answer["map"] is None or answer["map"]["method"] == "occlusion"
        server.terminate()
