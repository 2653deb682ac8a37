"""What Lightning's loop and the loader cost beside each method's step.

Both are small times that are known well. Their share of an epoch on the clock is not: on a shared machine the step alone
changes by a quarter from one minute to the next, and ``end_to_end`` would need hours for all methods.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2
import torch

from skinkd.build.objects import build_data
from skinkd.build.tables import load_split

from ..networks import all_methods, alone, batch_of, configuration, formats, method_of, precision_of
from ..passes import networks_known
from ..session import Bench, Section
from ..table import Column
from ..timing import milliseconds
from .end_to_end import TINY, InTurn, Repeated, fit, training_step
from .methods import FOUR
from .methods import IMAGES as OF_A_BATCH

IMAGES = OF_A_BATCH | {"mskd": 32}
ROUNDS = 7


def loop_adds(bench: Bench, split: Any, words: Sequence[str]) -> float:
    """Milliseconds that Lightning's loop adds to a step.

    The step is that of ``supervised``, whose network gives an output that is computed already. So it takes less than a
    millisecond, and the same batch comes again and again.
    """
    config = configuration(*words, "method=supervised", f"data.batch_size={4 if bench.quick else 64}", *bench.overrides)
    method, config = method_of(config, bench.device, build_data(config, *split))
    batch, precision = batch_of(method, config, bench.device), precision_of(config, bench.device)
    count, epochs = (3, 2) if bench.quick else (100, 6)
    watch = InTurn(bench, batch, precision)
    with networks_known(method, batch):
        fit(config, method, watch, count=count, epochs=epochs, batches=Repeated(batch, count))
    pairs = zip(watch.steps[1:], watch.in_memory[1:], strict=True)  # the first epoch warms up
    return 1000 * statistics.median(step - memory for step, memory in pairs)


def in_turn(step: Callable[[], None], data: Any, *, rounds: int) -> list[tuple[float, float]]:
    """Seconds of a step on the clock, and of the processor for the making of a batch, which take turns.

    The way of a batch from a loading process is not in it.
    """
    workers, data.num_workers = data.num_workers, 0
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)  # as in a loading process
    stream, taken = iter(data.train_dataloader()), []
    try:
        for _ in range(rounds + 1):
            began = time.perf_counter()
            step()
            stepped, began = time.perf_counter() - began, time.process_time()
            next(stream)
            taken.append((stepped, time.process_time() - began))
    finally:
        data.num_workers = workers
        cv2.setNumThreads(threads)
    return taken[1:]  # the first warms up, and opens the cache


def beside(bench: Bench, split: Any, words: Sequence[str], adds: float) -> dict[str, Any]:
    """The step in memory, the loading of its batch, and the speed that is kept where all cores share the work well."""
    config = configuration(*words, *bench.overrides)
    data = build_data(config, *split)
    method, config = method_of(config, bench.device, data)
    batch, precision = batch_of(method, config, bench.device), precision_of(config, bench.device)
    optimizer = torch.optim.SGD([one for one in method.parameters() if one.requires_grad], lr=1e-3, momentum=0.9)
    with alone(method):
        step = partial(training_step, method, optimizer, batch, precision)
        taken = in_turn(step, data, rounds=1 if bench.quick else ROUNDS)
    cores = torch.get_num_threads()
    return {
        "memory_ms": milliseconds([memory for memory, _ in taken]),
        "adds_ms": adds,
        "loader_ms": milliseconds([loader for _, loader in taken]),
        "kept": statistics.median(memory / (memory + adds / 1000 + loader / cores) for memory, loader in taken),
        "rounds": len(taken),
        "formats": formats(config),
    }


def measure(bench: Bench) -> None:
    """Every method with its own networks."""
    words = [*bench.data, "data.cache=ram", "trainer.enable_progress_bar=false", "trainer.log_every_n_steps=50"]
    split = load_split(configuration(*words, *bench.overrides))
    adds = loop_adds(bench, split, words)
    for name in TINY if bench.quick else all_methods():
        count = 4 if bench.quick else IMAGES.get(name, 64)
        views = " × 4" if name in FOUR else ""
        of_row = [*words, f"method={name}", f"data.batch_size={count}"]
        one = partial(beside, bench, split, of_row, adds)
        bench.take({"method": name, "images": f"{count}{views}"}, one, needs=4)


SECTION = Section(
    title="What the loop and the loader take beside a step",
    explains="64 px, images in the RAM cache, augment=basic. In memory: the step on one batch, with its optimizer. Loop: what "
    "Lightning's loop adds to a step. Loader: the processor's time for a batch. Kept: the speed that is left if the loading "
    "processes share the cores with the step without a loss. Target: at least 0.95.",
    columns=(
        Column("method", "method"),
        Column("images", "images"),
        Column("memory_ms", "in memory, ms", 1),
        Column("adds_ms", "loop, ms", 2),
        Column("loader_ms", "loader, ms", 1),
        Column("kept", "kept", 3),
    ),
    seconds=150,
    measure=measure,
)
