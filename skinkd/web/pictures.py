"""The two pictures of an answer: the square that the network sees, and the explanation to lay over it."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 512
"""Most pixels of a side."""
_BOTTOM = 0.25  # where the colours begin: those below are as dark as a lesion


def central_square(image: NDArray[np.uint8]) -> bytes:
    """Return the central square of an image, uint8 RGB (H, W, 3), as a PNG of at most ``SIDE`` pixels a side."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square: NDArray[Any] = image[top : top + side, left : left + side]
    if side > SIDE:
        square = cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8)
    return _png(square[..., ::-1])


def coloured_map(values: NDArray[np.float32]) -> bytes | None:
    """Return a map as a PNG with transparency: the larger a value, the brighter and the less transparent.

    Args:
        values: not negative, (H, W).

    Returns:
        The PNG, ``SIDE`` pixels a side; None if no value is above 0, so there is nothing to show.
    """
    most = float(values.max())
    if not most > 0:
        return None
    share = np.clip(cv2.resize(values / most, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), 0, 1)
    shade = np.round(255 * (_BOTTOM + (1 - _BOTTOM) * share)).astype(np.uint8)
    colours = cv2.applyColorMap(shade, cv2.COLORMAP_INFERNO)
    return _png(np.dstack([colours, np.round(255 * share).astype(np.uint8)]))


def _png(image: NDArray[Any]) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()
