"""The training loader from JPEG files, the disk cache and the RAM cache, beside a plain loader of torchvision."""

import gc
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from skinkd.build.objects import build_data
from skinkd.build.tables import load_split

from ..networks import configuration
from ..session import Bench, Section
from ..table import Column
from ..watch import processor_seconds

SOURCES = {"JPEG": "off", "disk cache": "disk", "RAM cache": "ram"}


class Plain(Dataset[tuple[torch.Tensor, int]]):
    """What ``torchvision.datasets.ImageFolder`` does: open a file with Pillow, convert it, transform it.

    The transforms are those of ``augment=basic`` in torchvision's words.
    """

    def __init__(self, paths: list[str], labels: list[int], size: int) -> None:
        self.paths, self.labels = paths, labels
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=(0.7, 1.0), ratio=(0.75, 1.3333)),
                transforms.RandomHorizontalFlip(),
                transforms.RandomVerticalFlip(),
                transforms.RandomApply([transforms.RandomRotation((90, 90))]),
                transforms.RandomApply([transforms.ColorJitter(0.1, 0.1, 0.1, 0.02)], p=0.8),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """A sample."""
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), self.labels[index]


def rate(loader: Iterable[Any], *, workers: int, batches: int, images: int) -> tuple[float, float]:
    """Images a second on the clock, and images for each second that the processor works.

    The clock starts when the batches that are loaded while the processes start have come. The processor's seconds are those of
    this process and of the loading processes, from their start to their end.

    Args:
        loader: gives a batch after the other.
        workers: its loading processes.
        batches: that are timed.
        images: of a batch.
    """
    before = processor_seconds()
    stream, skipped = iter(loader), 2 * workers + 1
    for _ in range(skipped):
        next(stream)
    began = time.perf_counter()
    for _ in range(batches):
        next(stream)
    seconds = time.perf_counter() - began
    del stream
    loader._iterator = None  # type: ignore[attr-defined]  # ends the loading processes, so that their time is counted
    gc.collect()
    loaded = batches + skipped + 2 * workers  # each process loads two batches ahead
    return images * batches / seconds, images * loaded / (processor_seconds() - before)


def compared(bench: Bench, split: Any, words: Sequence[str], *, workers: int) -> dict[str, Any]:
    """Medians of our loader and of the plain one, which take turns."""
    config = configuration(*words, f"data.num_workers={workers}", *bench.overrides)
    images, rounds = config["data"]["batch_size"], 1 if bench.quick else 2
    frame = split[0].frame[(split[1] == "train").to_numpy()]
    ahead = 4 * workers + 1
    batches = max(min(len(frame) // images - ahead, 1 if bench.quick else 14), 1)
    ours = build_data(config, *split)
    plain = Plain(frame["path"].tolist(), frame["label"].tolist(), config["data"]["image_size"])
    found = []
    for _ in range(rounds):
        loaders = (
            ours.train_dataloader(),
            DataLoader(plain, batch_size=images, shuffle=True, num_workers=workers),
        )
        found.append([rate(loader, workers=workers, batches=batches, images=images) for loader in loaders])
    (clock, core), (plain_clock, plain_core) = (
        (statistics.median(pair[k][0] for pair in found), statistics.median(pair[k][1] for pair in found))
        for k in (0, 1)
    )
    return {
        "rate": clock,
        "per_worker": clock / max(workers, 1),
        "per_core": core,
        "plain": plain_clock,
        "plain_core": plain_core,
        "ratio": statistics.median(first[1] / second[1] for first, second in found),
        "rounds": rounds,
    }


def measure(bench: Bench) -> None:
    """Each source of images with one loading process and with as many as cores."""
    words = [*bench.data, f"data.batch_size={4 if bench.quick else 64}"]
    split = load_split(configuration(*words, *bench.overrides))
    kinds = (0,) if bench.quick else sorted({1, min(os.cpu_count() or 1, 14)})
    for workers in kinds:
        for name, cache in SOURCES.items():
            one = partial(compared, bench, split, [*words, f"data.cache={cache}"], workers=workers)
            bench.take({"source": name, "workers": workers}, one, needs=8)


SECTION = Section(
    title="The training loader, augment=basic, 64 px",
    explains="Images a second on the clock (with w workers, for each of them), and images for each second of the processor, of "
    "our loader and of a plain torchvision loader that reads the same JPEG files.",
    columns=(
        Column("source", "source"),
        Column("workers", "w"),
        Column("rate", "img/s", 0),
        Column("per_worker", "a worker", 0),
        Column("per_core", "a core s", 0),
        Column("plain", "plain", 0),
        Column("plain_core", "a core s", 0),
        Column("ratio", "ratio", 2),
    ),
    seconds=75,
    measure=measure,
)
