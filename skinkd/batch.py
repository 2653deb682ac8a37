"""The contract between data and methods: what one sample is, and so what one batch is."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """A sample, and after PyTorch's default collation a batch, of images as stored bytes.

    Images stay uint8 until the network: a quarter of the bytes cross to the device, and each network applies its
    own normalisation, so that a teacher and a student with different ones can share a batch.

    Attributes:
        image: uint8 RGB. Training (B, V, 3, H, W), V views of each image; evaluation (B, 3, H, W).
        label: int64 class index, (B,). In a mixed training batch (``augment.mix``): share of each class, float32 (B, K).
        index: int64 row of the sample in its dataset's table, (B,): names the image across processes.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which a batch has no use for
