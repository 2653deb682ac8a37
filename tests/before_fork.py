"""Imported once by the process from which ``train_process`` forks others: what each of them would do again at its start.

``skinkd.train`` itself is left out, as it runs as ``__main__``.
"""

import gc
import os

import compose_once  # noqa: F401
import hydra
import optuna
import pandas.plotting  # noqa: F401  # pandas and torch import these late
import read_once  # noqa: F401
import rich._emoji_codes  # noqa: F401
import torch.utils.serialization.config  # noqa: F401
import train_process  # noqa: F401  # of which each fork calls a function
import wandb.sdk.launch.inputs.internal  # noqa: F401  # W&B imports it as a run starts, and takes two seconds

import skinkd.analysis.output
import skinkd.config.cli
import skinkd.data.ham10000
import skinkd.data.synthetic
import skinkd.inference.other_data
import skinkd.methods.schedules
import skinkd.methods.supervised
import skinkd.search.study
import skinkd.training.run  # noqa: F401
from skinkd.runs.environment import describe_environment

del os.environ["PYTHONPATH"]  # set by train_process, so that this file is found
tiny = ["data=synthetic", "backbone=timm", "strategy=cpu", "precision=fp32", "logger=none"]  # as conftest.py
with hydra.initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
    hydra.compose("train", overrides=["optim.lr=1e-3", "data.fractions={train: 0.8}"])
    for more in ([], ["method=kd"], ["method=swskd"], ["method=tsskd"]):
        hydra.compose("train", overrides=[*tiny, "backbone.name=test_resnet.r160_in1k", *more])
    hydra.compose("tune", overrides=[*tiny, "backbone.name=test_resnet.r160_in1k"])
describe_environment()  # the packages' versions are read once in a process
optuna.logging.set_verbosity(optuna.logging.WARNING)
optuna.create_study(storage="sqlite://")  # imports sqlalchemy
gc.collect()
gc.freeze()  # a fork does not look through what it has inherited
gc.set_threshold(50_000)  # and seldom through what it makes, which would be a tenth of its time
