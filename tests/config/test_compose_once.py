"""What tests compose is what a user's command composes: ``compose_once`` keeps results of Hydra, and must change none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
COMPOSE = """
import itertools, json, sys
from pathlib import Path
if sys.argv[1] == "kept":
    import read_once, compose_once
import skinkd.conf
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
import skinkd.config.cli

folder = Path(skinkd.conf.__file__).parent
def choices(group):
    return sorted(path.stem for path in (folder / group).glob("*.yaml"))
commands = [["train", f"method={method}"] for method in choices("method")]
commands += [["train", f"{group}={choice}"] for group in ("data", "backbone", "optim", "augment") for choice in choices(group)]
commands += [["train", f"experiment={name}", "seed=3", "data.fold=1"] for name in choices("experiment")]
commands += [["train", "method=kd", f"seed={seed}", "optim.lr=0.5", "+optim.optimizer.fused=false"] for seed in (1, 2, 1)]
commands += [["train", "method=ssdkd", "~ema", "backbone@method.teacher.run.backbone=resnet18"]]
commands += [["tune"], ["tune", "tune.trials=3"], ["train", "method=nonsense"]]
with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
    for name, *overrides in commands:
        try:
            found = compose(name, overrides=overrides, return_hydra_config=True)
            print(json.dumps([overrides, OmegaConf.to_yaml(found.hydra.runtime.choices), OmegaConf.to_yaml(found)]))
        except Exception as error:
            print(json.dumps([overrides, type(error).__name__, str(error)]))
"""


@pytest.mark.slow
def test_the_kept_compositions_are_hydras() -> None:
    def composed(how: str) -> list[str]:
        environment = os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
        command = [sys.executable, "-c", COMPOSE, how]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()

    kept, own = composed("kept"), composed("own")
    failed = [line for line in own if "Exception" in line]
    assert len(own) > 60 and len(failed) == 1 and "nonsense" in failed[0], failed
    for one, other in zip(kept, own, strict=True):
        assert one == other
