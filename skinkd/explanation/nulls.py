"""Null maps: what a score is for maps that no network made. A method that is not above them has shown nothing."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from skinkd.explanation.scores import Map, Mask


def null_maps(
    image: NDArray[np.uint8], mask: Mask | None, mean_mask: Map | None, settings: Mapping[str, Any], *, seed: int
) -> dict[str, Map]:
    """Return the null maps of an image by name, each (H, W) and not negative.

    ``uniform`` is constant, ``blobs`` is blurred noise, ``centre`` a Gaussian in the middle of the image, ``mean_mask`` the
    mean mask of the training images, ``darkness`` one minus the grey value, and ``mask`` the lesion's mask, the best that
    localisation can be.

    Args:
        image: uint8 RGB, (H, W, 3).
        mask: of the lesion, (H, W); None: unknown, so there is no ``mask``.
        mean_mask: (H, W); None: the training images have no masks, so there is no ``mean_mask``.
        settings: standard deviations ``blob`` and ``centre``, in image heights.
        seed: of the blobs.
    """
    height, width = image.shape[:2]
    noise = np.random.default_rng(seed).standard_normal((height, width))
    blobs = cv2.GaussianBlur(noise, (0, 0), settings["blob"] * height)
    y, x = np.ogrid[:height, :width]
    square = (y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2
    maps: dict[str, Map] = {
        "uniform": np.ones((height, width)),
        "blobs": blobs - blobs.min(),
        "centre": np.exp(-square / (2 * (settings["centre"] * height) ** 2)),
    }
    if mean_mask is not None:
        maps["mean_mask"] = mean_mask
    maps["darkness"] = 1 - cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) / 255
    if mask is not None:
        maps["mask"] = mask.astype(np.float64)
    return maps
