"""The views that make up a training sample: one, two, or four rotations of an image, or one view of each of two images."""

from collections.abc import Callable

import numpy as np

Augment = Callable[[np.ndarray], np.ndarray]
View = Callable[[np.ndarray, Augment, np.random.Generator], np.ndarray]


def one_view(image: np.ndarray, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """Return one augmented copy of ``image`` (H, W, 3): (1, h, w, 3)."""
    return augment(image)[None]


def two_views(image: np.ndarray, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """Return two augmented copies of ``image`` (H, W, 3): (2, h, w, 3); TSS-KD (Liu et al., 2025)."""
    return np.stack([augment(image), augment(image)])


def four_rotations(image: np.ndarray, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """Return the copies of ``image`` (H, W, 3) turned by 0, 90, 180 and 270 degrees, 0 first: (4, h, w, 3).

    As in SSD-KD's code (Wang et al., 2023): the image is flipped with probability 0.5, then each rotated copy is
    augmented separately. Rotations are counter-clockwise and exact.
    """
    if rng.integers(2):
        image = image[:, ::-1]
    return np.stack([augment(np.ascontiguousarray(np.rot90(image, quarter))) for quarter in range(4)])


VIEWS: dict[str, View] = {"one": one_view, "two": two_views, "four_rotations": four_rotations}
"""Views of one image."""

PAIRS = ("class_pair", "last_batch")
"""Views of two images: the sampler gives each image a partner (:class:`skinkd.data.sampler.PairSampler`)."""
