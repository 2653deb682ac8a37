"""The contract between data and methods: a sample, and a batch of samples."""

from typing import NamedTuple

from torch import Tensor

NO_LABEL = -1
"""The label of an image whose class is not known: no class index, so that no loss and no count can take it for one."""


class Batch(NamedTuple):
    """A sample, and after PyTorch's default collation a batch, of images as stored bytes.

    Images stay uint8 until the network: a quarter of the bytes cross to the device, and each network applies its
    own normalisation, so that a teacher and a student with different ones can share a batch.

    Attributes:
        image: uint8 RGB. Training (B, V, 3, H, W), V views of each image; evaluation (B, 3, H, W).
        label: int64 class index, (B,); ``NO_LABEL`` where the class is not known. In a mixed training batch
            (``augment.mix``): share of each class, float32 (B, K).
        index: int64 row of the sample in its dataset's table, (B,): names the image across processes.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which a batch has no use for
