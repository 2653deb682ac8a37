"""One run on two hosts: one folder, the curve of one process, and an end for both when the cable is pulled."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from real_slurm import until
from train_process import metrics_of, only_run
from two_hosts import TwoHosts

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

# a network without BatchNorm, whose statistics are those of each process's share of the batch, and no random augmentation: the
# gradient is then the mean over the same 16 images, in whatever processes
ALIKE = ["backbone.name=test_convnext.r160_in1k", "augment=none"]
TOLERANCE = 1e-4  # of losses up to 5, after ten steps; what rounding makes of sums in another order


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with TwoHosts() as both:
        yield both


def on_two_hosts(overrides: list[str], output: Path, *, processes: int, batch: int) -> list[str]:
    """The overrides of a run with so many processes on each host, and images of each process's batch."""
    counts = [f"trainer.devices={processes}", "+trainer.num_nodes=2", f"data.batch_size={batch}"]
    return [*overrides, *ALIKE, "strategy=ddp_cpu", *counts, f"paths.output_dir={output}"]


def text(folder: Path) -> str:
    return "".join(file.read_text() for file in sorted(folder.glob("host*.txt")))


def epochs(output: Path) -> int:
    """The complete epochs of the only run of an output folder; 0 before its first."""
    return sum(len(pd.read_csv(file)) for file in output.glob("*/history.csv"))


@pytest.fixture(scope="module")
def curve(train_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The history of one process with batches of 16."""
    return pd.read_csv(train_tiny(tmp_path_factory.mktemp("one"), *ALIKE) / "history.csv")


@pytest.mark.parametrize("processes", [1, 2])
def test_the_curve_is_that_of_one_process(
    hosts: TwoHosts, tiny: list[str], curve: pd.DataFrame, tmp_path: Path, processes: int
) -> None:
    overrides = on_two_hosts(tiny, tmp_path / "outputs", processes=processes, batch=8 // processes)
    started = hosts.start(overrides, tmp_path, processes=processes)
    assert [process.wait(900) for process in started] == [0, 0], text(tmp_path)
    assert text(tmp_path).count("training in") == 1
    folder = only_run(tmp_path / "outputs")
    history = pd.read_csv(folder / "history.csv")
    for name in ("train/loss", "val/loss", "val/auroc_macro"):
        np.testing.assert_allclose(history[name], curve[name], rtol=0, atol=TOLERANCE, err_msg=name)
    assert pd.read_csv(folder / "predictions" / "test.csv")["image_id"].is_unique


def test_a_pulled_cable_ends_both_and_the_same_command_goes_on(
    hosts: TwoHosts, tiny: list[str], tmp_path: Path
) -> None:
    """A process waits a minute for the others (``distributed.timeout_minutes``). torchrun then waits for the other host too."""
    output = tmp_path / "outputs"
    longer = ["trainer.max_epochs=300", "distributed.timeout_minutes=1"]
    overrides = on_two_hosts([*tiny, *longer], output, processes=1, batch=8)
    started = hosts.start(overrides, tmp_path / "first", processes=1)
    until(lambda: epochs(output) >= 2, "two epochs")
    hosts.cut()
    began = time.monotonic()
    codes = [process.wait(300) for process in started]
    assert time.monotonic() - began < 300 and all(code != 0 for code in codes), text(tmp_path / "first")
    done = epochs(output)
    hosts.connect()
    started = hosts.start(overrides, tmp_path / "second", processes=1)
    assert [process.wait(900) for process in started] == [0, 0], text(tmp_path / "second")
    assert text(tmp_path / "second").count("going on in") == 1 and 2 <= done < 300
    assert metrics_of(only_run(output))["epochs"] == 300
