"""One sample: an image that is read, augmented by the sample's own seed, and turned into tensors."""

import albumentations as A
import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from skinkd.batch import NO_LABEL, Batch
from skinkd.data.files import read_image
from skinkd.data.transforms import seed_pipeline
from skinkd.data.views import VIEWS
from skinkd.errors import check_choice


class SkinDataset(Dataset[Batch]):
    """The images of one part of a split, or of a table without labels.

    Augmentation draws from a generator seeded by (seed, epoch, index) and by nothing else: it is the same for
    any number of workers or processes, and different in every epoch.

    Args:
        frame: column ``path``, and ``label`` if the classes are known; the row's position is the sample's index.
        pipeline: albumentations pipeline from an image of any size to a fixed one.
        views: a name of :data:`skinkd.data.views.VIEWS`; None, for evaluation: the pipeline once, no view axis.
        seed: of the augmentation.
    """

    def __init__(self, frame: pd.DataFrame, *, pipeline: A.Compose, views: str | None, seed: int):
        self.paths = frame["path"].to_numpy(str)  # one block of memory, shared with the workers
        self.labels = frame["label"].to_numpy(np.int64) if "label" in frame else np.full(len(frame), NO_LABEL, np.int64)
        self.pipeline = pipeline
        self.views = None if views is None else VIEWS[check_choice("views", views, VIEWS)]
        self.seed = seed

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, key: int | tuple[int, int]) -> Batch:
        """Return a sample by index, or by (index, epoch) from an EpochSampler.

        Its image is uint8, (V, 3, h, w) with views and (3, h, w) without.

        Raises:
            UserError: the image file is missing, truncated or no image.
        """
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        image = read_image(self.paths[index])
        if self.views is None:
            pixels = self._augment(image).transpose(2, 0, 1)
        else:
            rng = np.random.default_rng((self.seed, epoch, index))
            seed_pipeline(self.pipeline, rng)
            pixels = self.views(image, self._augment, rng).transpose(0, 3, 1, 2)
        return Batch(
            image=torch.from_numpy(np.ascontiguousarray(pixels)),
            label=torch.tensor(self.labels[index]),
            index=torch.tensor(index),
        )

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

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch:
        """Return a batch of (index, epoch) from an EpochSampler, without pixels: its image is a zero for each."""
        index = torch.tensor([index for index, _ in keys])
        return Batch(image=torch.zeros((len(keys), 1), dtype=torch.uint8), label=self.labels[index], index=index)


def whole_batch(batch: Batch) -> Batch:
    """Collate what is a batch already."""
    return batch


def start_worker(worker: int) -> None:
    """Limit a loading process to one thread: OpenCV would start a thread for each core in every such process."""
    cv2.setNumThreads(0)
