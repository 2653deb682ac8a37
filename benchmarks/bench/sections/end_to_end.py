"""Training in Lightning's loop over the same step on a batch in memory: the share of its speed that is kept."""

import statistics
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from skinkd.batch import Batch
from skinkd.build.objects import build_data
from skinkd.build.tables import load_split
from skinkd.data.device import augmented
from skinkd.training.callbacks import DivergenceCheck, EpochSeed
from skinkd.training.trainer import build_trainer

from ..networks import alone, batch_of, configuration, formats, method_of, precision_of
from ..session import Bench, Section
from ..table import Column

TINY = ("supervised", "ssdkd")
PAPERS = ("supervised", "swskd", "tsskd", "ssdkd", "mskd")
ROUNDS = 2  # epochs after one to warm up
FEWEST, MOST = 8, 40  # batches of an epoch: the loading processes have up to four ready before it begins


class InTurn(Callback):
    """Times epochs in Lightning's loop, and after each epoch as many steps on a batch in memory, with the same optimizer.

    The start of an epoch, until the first step has begun, is timed apart, since a run has longer epochs than the benchmark.
    """

    def __init__(self, bench: Bench, batch: Batch, precision: Any) -> None:
        self.now, self.batch, self.precision = bench.timer.now, batch, precision
        self.starts: list[float] = []  # seconds
        self.steps: list[float] = []  # seconds of a step, in each epoch
        self.in_memory: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self._began, self._done = self.now(), 0

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self._done += 1
        if self._done == 1:
            self._first = self.now()
        elif trainer.is_last_batch:
            self.steps.append((self.now() - self._first) / (self._done - 1))
            self.starts.append(max(self._first - self._began - self.steps[-1], 0))

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        with alone(module):
            began = self.now()
            for _ in range(self._done - 1):
                training_step(module, trainer.optimizers[0], self.batch, self.precision)
            self.in_memory.append((self.now() - began) / (self._done - 1))


def training_step(method: Any, optimizer: Any, batch: Batch, precision: Any) -> None:
    """A whole step: losses, gradients, and the optimizer's update."""
    optimizer.zero_grad()
    with precision:
        loss = method.training_step(batch, 0)
    loss.backward()
    optimizer.step()


class Repeated:
    """A loader that gives one batch again and again."""

    def __init__(self, batch: Batch, count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        return iter([self.batch] * self.count)


def share(
    bench: Bench, split: Any, *words: str, seconds: float, fused: bool = False, from_memory: bool = False
) -> dict[str, Any]:
    """Milliseconds of a step in the loop and in memory, and the share that is kept over an epoch of all images.

    Args:
        bench: the session.
        split: the images and their parts.
        words: of a command line.
        seconds: that the epochs and the steps in memory may take, about.
        fused: torch.compile the augmentation on the device.
        from_memory: the loop's batches come from memory too, so that the loop alone is measured.
    """
    config = configuration(*words, *bench.overrides)
    data = build_data(config, *split)
    method, config = method_of(config, bench.device, data)
    if fused:
        data._on_device._augment = torch.compile(augmented, dynamic=False)  # type: ignore[union-attr]
    batch, precision = batch_of(method, config, bench.device), precision_of(config, bench.device)
    whole = data.train_batches(1)
    count = min(whole, batches_in(seconds, method, batch, precision) if not bench.quick else 2)
    epochs = 1 if bench.quick else ROUNDS + 1
    watch = InTurn(bench, batch, precision)
    fit(config, method, watch, count=count, epochs=epochs, batches=Repeated(batch, count) if from_memory else data)
    rounds = list(zip(watch.starts, watch.steps, watch.in_memory, strict=True))[0 if bench.quick else 1 :]
    start, step, memory = (statistics.median(found) for found in zip(*rounds, strict=True))
    return {
        "memory_ms": 1000 * memory,
        "loop_ms": 1000 * step,
        "start_s": start,
        "kept": statistics.median(whole * memory / (start + whole * step) for start, step, memory in rounds),
        "rate": len(batch.label) * whole / (start + whole * step),
        "rounds": len(rounds),
        "batches": count,
        "formats": formats(config),
    }


def fit(config: dict[str, Any], method: Any, watch: InTurn, *, count: int, epochs: int, batches: Any) -> None:
    """Train with the callbacks of a run that have work in each step, for epochs of ``count`` batches."""
    config["trainer"] |= {"max_epochs": epochs, "limit_train_batches": count}
    trainer = build_trainer(config, callbacks=[EpochSeed(0), DivergenceCheck(), watch], logger=None)
    trainer.limit_val_batches = 0  # a run always validates, so no setting of it says this
    trainer.fit(method, batches)


def batches_in(seconds: float, method: Any, batch: Batch, precision: Any) -> int:
    """How many batches an epoch may have so that all epochs and the steps in memory take about these seconds."""
    with alone(method):
        for _ in range(2):  # the first warms up
            began = time.perf_counter()
            with precision:
                loss = method.training_step(batch, 0)
            loss.backward()
            one = time.perf_counter() - began
    method.zero_grad()
    return min(max(round(seconds / (2 * (ROUNDS + 1) * one)), FEWEST), MOST)


def measure(bench: Bench) -> None:
    """On a CPU plain training and the four papers' methods, on a GPU every source of batches for a supervised ResNet-18."""
    split = load_split(configuration(*bench.data, *bench.overrides))
    common = [*bench.data, "data.cache=ram", "trainer.enable_progress_bar=false", "trainer.log_every_n_steps=50"]
    on_gpu = bench.device.type == "cuda"
    plan = [*(_methods(bench) if not on_gpu else []), *(_sources(bench) if on_gpu or bench.quick else [])]
    for place, (name, words, options) in enumerate(plan):
        seconds = bench.share([25 if options.get("fused") else 8 for *_, options in plan[place:]])
        one = partial(share, bench, split, *common, *words, seconds=0.8 * seconds, **options)
        bench.take({"what": name}, one, needs=25 if options.get("fused") else 8)


def _methods(bench: Bench) -> list[tuple[str, list[str], Mapping[str, Any]]]:
    names = TINY if bench.quick else PAPERS
    count = 4 if bench.quick else 64
    return [
        (name, [f"method={name}", f"data.batch_size={count // 2 if name.startswith('ssdkd') else count}"], {})
        for name in names
    ]


def _sources(bench: Bench) -> list[tuple[str, list[str], Mapping[str, Any]]]:
    """Name, words and options of :func:`share` for each source of batches of an epoch of 42,000 images."""
    words = [f"strategy={'gpu' if bench.device.type == 'cuda' else 'cpu'}", "precision=bf16", "channels_last=true"]
    words += ["sampler=per_class", f"sampler_target={4 if bench.quick else 6000}"]
    device = "data.augment_on=device"

    def of(size: int, name: str, *more: str, **options: Any) -> tuple[str, list[str], Mapping[str, Any]]:
        return f"{size} images: {name}", [*words, f"data.batch_size={size}", *more], options

    if bench.quick:
        return [
            of(8, "one batch on the device", from_memory=True),
            of(8, device, device),
            of(8, "1 loading process", "data.num_workers=1"),
        ]
    return [
        of(1024, "one batch on the device", from_memory=True),
        of(1024, f"{device}, its operations fused", device, fused=True),
        of(256, "one batch on the device", from_memory=True),
        of(256, "14 loading processes", "data.num_workers=14"),
        of(256, f"{device}, its operations fused", device, fused=True),
        of(1024, "14 loading processes", "data.num_workers=14"),
        of(1024, f"{device} compile=true", device, "compile=true"),
        of(1024, device, device),
        of(128, "14 loading processes", "data.num_workers=14"),
        of(128, "8 loading processes", "data.num_workers=8"),
        of(1024, "8 loading processes", "data.num_workers=8"),
    ]


SECTION = Section(
    title="Lightning's loop and the loader over the step in memory",
    explains="64 px, images in the RAM cache, augment=basic. On a CPU a row is a method with its own networks, on a GPU a "
    "source of batches for ResNet-18. Kept: speed of an epoch of all training images over that of the same steps on a batch in "
    "memory. Target: at least 0.95.",
    columns=(
        Column("what", "method or source"),
        Column("memory_ms", "in memory, ms", 1),
        Column("loop_ms", "in the loop, ms", 1),
        Column("start_s", "start, s", 2),
        Column("rate", "images/s", 0),
        Column("kept", "kept", 2),
    ),
    seconds=150,
    measure=measure,
)
