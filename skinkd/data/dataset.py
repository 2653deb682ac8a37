"""The samples of a batch: images that are read, augmented each by a seed of its own, and put together as tensors."""

import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from skinkd.batch import NO_LABEL, Batch
from skinkd.data.files import read_image
from skinkd.data.transforms import seed_pipeline
from skinkd.data.views import PAIRS, VIEWS, one_view
from skinkd.errors import check_choice


class SkinDataset(Dataset[Batch]):
    """The images of one part of a split, or of a table without labels.

    Augmentation draws from a generator seeded by (seed, epoch, index) and by nothing else: it is the same for
    any number of workers or processes, and different in every epoch.

    Args:
        frame: column ``path``, and ``label`` if the classes are known; the row's position is the sample's index.
        pipeline: albumentations pipeline from an image of any size to a fixed one.
        views: a name of :data:`skinkd.data.views.VIEWS` or ``PAIRS``; None, for evaluation: the pipeline once, no view axis.
        seed: of the augmentation.
    """

    def __init__(self, frame: pd.DataFrame, *, pipeline: A.Compose, views: str | None, seed: int):
        self.paths = frame["path"].to_numpy(str)  # one block of memory, shared with the workers
        self.labels = frame["label"].to_numpy(np.int64) if "label" in frame else np.full(len(frame), NO_LABEL, np.int64)
        self.pipeline = pipeline
        self.views = None
        if views is not None:
            self.views = VIEWS.get(check_choice("views", views, (*VIEWS, *PAIRS)), one_view)
        self.seed = seed

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, key: int | tuple[int, ...]) -> Batch:
        """Return a sample by its key: a batch of :meth:`__getitems__` without the axis of the batch."""
        return Batch(*(part[0] for part in self.__getitems__([key])))

    def __getitems__(self, keys: Sequence[int | tuple[int, ...]]) -> Batch:
        """Return a batch by the samples' keys: index, (index, epoch) from an EpochSampler, or a PairSampler's key.

        Its images are uint8, (B, V, 3, h, w) with views and (B, 3, h, w) without. Of a pair, label and index are the first's.

        Raises:
            UserError: an image file is missing, truncated or no image.
        """
        index = np.array([key[0] if isinstance(key, tuple) else key for key in keys])
        pixels = np.stack([self._views(*key) if isinstance(key, tuple) else self._views(key) for key in keys])
        pixels = np.ascontiguousarray(pixels)  # the layout of the stack is that of the images, channels last
        return Batch(torch.from_numpy(pixels), torch.from_numpy(self.labels[index]), torch.from_numpy(index))

    def _views(self, index: int, epoch: int = 0, *partner: int) -> np.ndarray:
        """Return the views of one image, or of it and its partner, channels first."""
        pixels = self._pixels(index, (self.seed, epoch, index))
        if not partner:
            return pixels
        other, epoch_of_other = partner
        # a word more in the seed: not the draws that this image has as the first of a pair
        return np.concatenate([pixels, self._pixels(other, (self.seed, epoch_of_other, other, 1))])

    def _pixels(self, index: int, seed: tuple[int, ...]) -> np.ndarray:
        """Return the views of one image, channels first."""
        image = read_image(self.paths[index])
        if self.views is None:
            return self._augment(image).transpose(2, 0, 1)
        rng = np.random.default_rng(seed)
        seed_pipeline(self.pipeline, rng)
        return self.views(image, self._augment, rng).transpose(0, 3, 1, 2)

    def _augment(self, image: np.ndarray) -> np.ndarray:
        return self.pipeline(image=image)["image"]


class ImageNumbers(Dataset[Batch]):
    """The images of one part by number and label alone, a batch at a time; their pixels are on the device already.

    Args:
        labels: int64, of each image.
    """

    def __init__(self, labels: np.ndarray):
        self.labels = torch.tensor(labels)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitems__(self, keys: list[tuple[int, ...]]) -> Batch:
        """Return a batch of (index, epoch) from an EpochSampler, without pixels: its image is a zero for each."""
        index = torch.tensor([index for index, *_ in keys])
        return Batch(image=torch.zeros((len(keys), 1), dtype=torch.uint8), label=self.labels[index], index=index)


def whole_batch(batch: Any) -> Any:
    """Collate what is a batch already, as all our datasets give it: to put samples together one by one takes longer."""
    return batch


def start_worker(worker: int) -> None:
    """Limit a loading process to one thread, and let the training process alone decide when it ends.

    OpenCV would start a thread for each core in every such process. A terminal sends Ctrl-C, and SLURM SIGTERM, to loading
    processes too. The training process would lose them before it could save a checkpoint.
    """
    cv2.setNumThreads(0)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()


def _end_when_told(by: int) -> None:
    """End this process when the process ``by`` sends it SIGTERM."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != by:
        pass
    os._exit(0)
