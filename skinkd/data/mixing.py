"""Mixing of a training batch: each image with another image of the batch, and the labels in the same shares."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from skinkd.batch import Batch
from skinkd.data.dataset import SkinDataset
from skinkd.errors import check_choice, check_positive, check_range

MIXES = ("none", "mixup", "cutmix")


class Mix:
    """Mixup (Zhang et al., ICLR 2018) or CutMix (Yun et al., ICCV 2019), as ``timm.data.Mixup`` does them by batch.

    A batch is mixed with its reverse: image i with image B − 1 − i. One λ ~ Beta(``alpha``, ``alpha``) is drawn for the
    batch. Mixup gives λ·x_i + (1 − λ)·x_j; CutMix replaces a box of 1 − λ of the image's area by that of the other image,
    and λ becomes the share that is left after the box is clipped at the border. The labels are λ·y_i + (1 − λ)·y_j.

    All views of an image have the same partner, λ and box (ours). Mixup rounds to whole bytes.

    Args:
        kind: "mixup" | "cutmix".
        alpha: above 0.
        prob: share of the batches that are mixed, in [0, 1].
        num_classes: K.

    Raises:
        UserError: a value out of range.
    """

    def __init__(self, kind: str, *, alpha: float, prob: float, num_classes: int) -> None:
        self.kind = check_choice("augment.mix", kind, MIXES[1:])
        self.alpha = check_positive("augment.mix_alpha", alpha)
        check_range("augment.mix_prob", prob, 0, 1)
        self.prob = prob
        self.num_classes = num_classes

    def __call__(self, image: Tensor, label: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            image: uint8 (B, V, 3, H, W).
            label: int64 (B,).
            rng: draws whether the batch is mixed, λ, and the centre of the box, in this order.

        Returns:
            The images, uint8 (B, V, 3, H, W), and the shares of the classes, float32 (B, K), which sum to 1. A batch that is
            not mixed has shares too: 1 for the class of the image.
        """
        share = F.one_hot(label, self.num_classes).float()
        if rng.random() >= self.prob:
            return image, share
        lam = rng.beta(self.alpha, self.alpha)
        other = image.flip(0)
        if self.kind == "mixup":
            image = (image * lam + other * (1 - lam)).round().to(torch.uint8)
        else:
            rows, columns = _box(image.shape[-2], image.shape[-1], lam, rng)
            image = image.clone()
            image[..., rows, columns] = other[..., rows, columns]
            box = (rows.stop - rows.start) * (columns.stop - columns.start)
            lam = 1 - box / (image.shape[-2] * image.shape[-1])
        return image, share * lam + share.flip(0) * (1 - lam)


def _box(height: int, width: int, lam: float, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a box of 1 − λ of the area, its centre uniform in the image, clipped at the border."""
    side = (1 - lam) ** 0.5

    def span(length: int) -> slice:
        cut, centre = int(length * side), int(rng.integers(length))
        return slice(max(centre - cut // 2, 0), min(centre + (cut + 1) // 2, length))

    return span(height), span(width)


class MixedBatches(Dataset[Batch]):
    """The training images, mixed batch by batch.

    What is drawn follows from the seed, the epoch and the images of the batch. So it is the same for any number of loading
    processes, and in a run that goes on from a checkpoint.

    Args:
        dataset: the training images.
        mix: how a batch is mixed.
        seed: of the draws.
    """

    def __init__(self, dataset: SkinDataset, mix: Mix, *, seed: int) -> None:
        self.dataset, self.mix, self.seed = dataset, mix, seed

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)

    def __getitems__(self, keys: Sequence[tuple[int, ...]]) -> Batch:
        """Return a batch by the samples' (index, epoch): image uint8 (B, V, 3, h, w), label float32 (B, K)."""
        batch = self.dataset.__getitems__(keys)
        draws: Any = (self.seed, keys[0][1], *(index for index, *_ in keys))
        image, share = self.mix(batch.image, batch.label, np.random.default_rng(draws))
        return Batch(image, share, batch.index)
