"""A world small enough to train in a second: 120 synthetic images of 32 pixels, a network of 0.4 million parameters.

What is slow to import is imported by the processes that run tests, and not by the process that hands the tests to them.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import train_process
from xdist import is_xdist_controller

IMAGES, HEIGHT, WIDTH = 120, 48, 64


def pytest_sessionstart(session: pytest.Session) -> None:
    """Set up the libraries, before a test is read."""
    if is_xdist_controller(session):
        train_process.share_server()
        return
    gc.set_threshold(50_000)  # modules and tests are many objects, and a run makes little garbage
    import compose_once  # noqa: F401
    import read_once  # noqa: F401
    from hypothesis import settings

    settings.register_profile("no_deadline", deadline=None)  # time is measured in benchmarks
    settings.load_profile("no_deadline")


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the synthetic images of this test session are; processes of one session share them."""
    from skinkd.data.synthetic import generate

    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "synthetic"
    generate(root, images=IMAGES, image_size=(HEIGHT, WIDTH), seed=0)
    return root


@pytest.fixture(scope="session")
def synthetic_folder(synthetic_root: Path) -> Path:
    """The folder of the tiny runs' images; other tests may generate further folders beside it."""
    from skinkd.data.synthetic import generate

    return generate(synthetic_root, images=IMAGES, image_size=(HEIGHT, WIDTH), seed=0)


@pytest.fixture(scope="session")
def tiny(synthetic_root: Path) -> list[str]:
    """Overrides that make a run tiny; 5 steps an epoch of 81 training images."""
    return [
        "data=synthetic",
        f"data.root={synthetic_root}",
        f"paths.cache_dir={synthetic_root.parent / 'cache'}",
        f"data.table.images={IMAGES}",
        f"data.table.height={HEIGHT}",
        f"data.table.width={WIDTH}",
        "data.image_size=32",
        "data.batch_size=16",
        "data.num_workers=0",
        "backbone=timm",
        "backbone.name=test_resnet.r160_in1k",
        "backbone.pretrained=false",
        "trainer.max_epochs=2",
        "trainer.enable_progress_bar=false",
        "evaluation.bootstrap_replicates=50",
        "strategy=cpu",
        "precision=fp32",
        "channels_last=false",
        "logger=none",
    ]


@pytest.fixture
def accelerator() -> str:
    """Lightning's name of the device that tests marked ``gpu`` run on.

    With SKINKD_GPU_TESTS=cpu the tests run on the CPU, as a trial of the tests themselves.
    """
    if os.environ.get("SKINKD_GPU_TESTS") == "cpu":
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return "gpu"


Trained = Callable[..., Path]


@pytest.fixture(scope="session")
def train_tiny(tiny: list[str]) -> Trained:
    """Trains in this process, with overrides and an output folder, and returns the run folder."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from skinkd.config.identity import run_path
    from skinkd.config.resolve import stored_settings
    from skinkd.train import train

    def run(output: Path, *overrides: str) -> Path:
        with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
            settings = compose("train", overrides=[*tiny, f"paths.output_dir={output}", *overrides])
        try:
            train(settings)
        finally:
            gc.collect()  # the run folder's lock is held until its object goes
        return run_path(OmegaConf.to_container(stored_settings(settings), resolve=True))  # type: ignore[arg-type]

    return run


@pytest.fixture
def trained(train_tiny: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """As ``train_tiny``, into the test's own folder and without the pictures, which take half the time."""
    for picture in ("plot_curves", "plot_confusion"):
        monkeypatch.setattr(f"skinkd.training.scores.{picture}", lambda *_, **__: None)

    def run(*overrides: str, output: Path | None = None) -> Path:
        return train_tiny(output or tmp_path / "outputs", *overrides)

    return run


@pytest.fixture(scope="session")
def finished(train_tiny: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished supervised run, for reading only."""
    return train_tiny(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def job(tiny: list[str], tmp_path: Path) -> Callable[..., train_process.Result]:
    """Runs ``python -m skinkd.train`` in a process of its own; ``output`` is where its run folders go."""

    def run(*overrides: str, output: Path | None = None, **settings: Any) -> train_process.Result:
        where = f"paths.output_dir={output or tmp_path / 'outputs'}"
        return train_process.run([*tiny, where, *overrides], folder=tmp_path / "job", **settings)

    return run


@pytest.fixture(scope="module", autouse=True)
def _no_garbage_in_what_was_imported() -> None:
    """Collections pass over what there is before each file of tests: the modules and tests, half a million objects and more.

    A run in this process collects several times.
    """
    gc.collect()
    gc.freeze()
    if "torch.utils.data" in sys.modules:
        # else the collection of a dropped loader waits five seconds for each process that loaded its images
        sys.modules["torch.utils.data"]._utils.MP_STATUS_CHECK_INTERVAL = 0.1


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> None:
    """Processes that tests start take Ctrl-C, also where the tests run in the background of a shell, which ignores it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reaches anybody's W&B account or is told by the environment to be offline."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_RUN_GROUP", "WANDB_SERVICE"):
            patch.delenv(name, raising=False)
        patch.setenv("NETRC", str(tmp_path_factory.mktemp("home") / "no-netrc"))
        yield
