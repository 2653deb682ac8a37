"""The loaders of a run: of one table and one split, and the same for every method."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import albumentations as A
import lightning as L
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from skinkd.batch import Batch
from skinkd.data.dataset import ImageNumbers, SkinDataset, start_worker, whole_batch
from skinkd.data.device import DeviceAugmentation
from skinkd.data.mixing import Mix, MixedBatches
from skinkd.data.sampler import EpochSampler, PairSampler, ResumableLoader, class_balance_weights
from skinkd.data.splits import PARTS
from skinkd.data.table import ImageTable
from skinkd.data.views import PAIRS
from skinkd.errors import UserError, check_range


class SkinDataModule(L.LightningDataModule):
    """Train, validation and test loaders that yield :class:`skinkd.batch.Batch`.

    The Trainer needs ``use_distributed_sampler=False``, since images are shared among processes here. In evaluation each
    process gets every ``world``-th image and none is repeated, so processes may have different numbers of batches.

    Args:
        table: the images.
        parts: "train", "val" or "test" for each row of ``table.frame``
            (:func:`skinkd.data.splits.make_split`).
        train_pipeline: augmentation (:func:`skinkd.data.transforms.train_pipeline`).
        eval_pipeline: resizing (:func:`skinkd.data.transforms.eval_pipeline`).
        views: the views of a training sample, a name in ``VIEWS`` or ``PAIRS`` of :mod:`skinkd.data.views`; the method
            chooses it.
        batch_size: training images of one step in one process; a smaller batch at the end is dropped.
        eval_batch_size: images of one evaluation step in one process.
        num_workers: loading processes of each loader; changes no result.
        seed: of the order and the augmentation.
        sampler: "none" | "balanced" | "sqrt", see :func:`skinkd.data.sampler.class_balance_weights`; "per_class":
            ``sampler_target`` images of each class in an epoch.
        sampler_target: images of each class, for "per_class"; unused by the others.
        mix: how training batches are mixed, or None.
        on_device: augments training's samples on the device, from the training part's images; None: the loading processes do.
        limits: part -> how much of it is used, a share of its images (a float) or a number of its batches (an int). The
            images are taken evenly from the whole part, which is sorted by id and so often by class.

    Raises:
        UserError: an option out of range, or a batch larger than the training part.
    """

    def __init__(
        self,
        *,
        table: ImageTable,
        parts: pd.Series,
        train_pipeline: A.Compose,
        eval_pipeline: A.Compose,
        views: str,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        seed: int,
        sampler: str,
        sampler_target: int | None = None,
        mix: Mix | None = None,
        on_device: Callable[[Sequence[str]], DeviceAugmentation] | None = None,
        limits: Mapping[str, float] | None = None,
    ):
        super().__init__()
        check_range("data.batch_size", batch_size, 1)
        check_range("data.eval_batch_size", eval_batch_size, 1)
        check_range("data.num_workers", num_workers, 0)
        if len(parts) != len(table):
            raise ValueError(f"{len(parts)} parts for {len(table)} images")
        self.classes = table.classes
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.seed, self.mix, self.views = seed, mix, views
        part = parts.to_numpy(str)
        batches = {"train": batch_size, "val": eval_batch_size, "test": eval_batch_size}
        self._rows = {
            name: _limited(table.frame[part == name], (limits or {}).get(name, 1.0), batches[name]) for name in PARTS
        }
        pipelines: Mapping[str, tuple[A.Compose, str | None]] = {
            "train": (train_pipeline, views),
            "val": (eval_pipeline, None),
            "test": (eval_pipeline, None),
        }
        self._datasets = {
            name: SkinDataset(self._rows[name], pipeline=pipeline, views=view, seed=seed)
            for name, (pipeline, view) in pipelines.items()
        }
        self._on_device = on_device(self._datasets["train"].paths.tolist()) if on_device else None
        self._counts = np.bincount(table.frame["label"][part == "train"], minlength=len(table.classes)).tolist()
        self._weights = class_balance_weights(self._datasets["train"].labels, sampler=sampler)
        self._per_class = None
        if sampler == "per_class":
            if sampler_target is None or sampler_target < 1:
                raise UserError(f"sampler_target={sampler_target} must be at least 1 with sampler=per_class; e.g. 1000")
            self._per_class = (self._datasets["train"].labels, sampler_target)
        self._check_batch(world=1)

    @property
    def class_counts(self) -> list[int]:
        """Images of each class in the training part, before any sampling or limit."""
        return self._counts

    @property
    def train_labels(self) -> np.ndarray:
        """Label of each training image, int64 (N,), in the order of ``Batch.index``."""
        return self._datasets["train"].labels

    def rows(self, part: str) -> pd.DataFrame:
        """Return the table's rows of a part; row i is the sample of index i in that part's loader."""
        return self._rows[part]

    def train_dataloader(self) -> ResumableLoader:
        """Return the training loader of this process: shuffled by (seed, epoch), resumable at any batch."""
        rank, world = self._process()
        self._check_batch(world)
        images = self._datasets["train"]
        sampler = self._sampler(rank, world)
        dataset: Dataset[Batch] = images
        loading = self._loading(persistent=True)
        if self.mix is not None:
            dataset = MixedBatches(images, self.mix, seed=self.seed)
        if self._on_device is not None:  # there is nothing to load, which no process helps with
            dataset = ImageNumbers(images.labels)
            loading |= {"num_workers": 0, "persistent_workers": False}
        return ResumableLoader(
            dataset,
            sampler=sampler,
            batch_size=self.batch_size,
            drop_last=True,
            **loading,
        )

    def train_batches(self, world: int) -> int:
        """Return the batches of an epoch in each of ``world`` processes."""
        return len(self._sampler(0, world)) // self.batch_size

    def _sampler(self, rank: int, world: int) -> EpochSampler:
        images = self._datasets["train"]
        order: dict[str, Any] = {
            "seed": self.seed,
            "rank": rank,
            "world": world,
            "weights": self._weights,
            "per_class": self._per_class,
        }
        if self.views in PAIRS:
            return PairSampler(images.labels, pairs=self.views, batch_size=self.batch_size, **order)
        return EpochSampler(len(images), **order)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Make training's samples on the device, if that is where they are augmented."""
        if self._on_device is None or not (self.trainer and self.trainer.training):
            return batch
        return batch._replace(image=self._on_device(batch.index, self.trainer.current_epoch))

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return the validation loader of this process, in the order of :meth:`rows`."""
        return self._eval_loader("val", persistent=True)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return the test loader of this process, in the order of :meth:`rows`."""
        return self._eval_loader("test", persistent=False)

    def _eval_loader(self, part: str, *, persistent: bool) -> DataLoader[Batch]:
        rank, world = self._process()
        dataset = self._datasets[part]
        return DataLoader(
            dataset,
            sampler=range(rank, len(dataset), world),
            batch_size=self.eval_batch_size,
            **self._loading(persistent=persistent),
        )

    def _loading(self, *, persistent: bool) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "collate_fn": whole_batch,
            "persistent_workers": persistent and self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "worker_init_fn": start_worker,
            # a loader draws a seed at each start, and dropout uses the global generator
            "generator": torch.Generator().manual_seed(self.seed),
        }

    def _process(self) -> tuple[int, int]:
        """Return this process's rank and the number of processes: (0, 1) without a trainer."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _check_batch(self, world: int) -> None:
        images = -(-len(self._datasets["train"]) // world)
        if self.batch_size > images:
            each = f" of each of the {world} processes" if world > 1 else ""
            raise UserError(
                f"data.batch_size={self.batch_size} is larger than the {images} training images{each}; set "
                f"data.batch_size to {images} or less"
            )


def _limited(rows: pd.DataFrame, limit: float, batch: int) -> pd.DataFrame:
    """Return the rows of a part, or as many of them as its limit says, evenly spaced."""
    count = limit * batch if isinstance(limit, int) else max(1, round(limit * len(rows)))
    if count < len(rows):
        rows = rows.iloc[np.arange(count) * len(rows) // count]
    return rows.reset_index(drop=True)
