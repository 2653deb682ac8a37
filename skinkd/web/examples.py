"""The page's gallery: one lesion of each class of the embedded dataset, drawn when the page starts."""

import cv2
import numpy as np

from skinkd.data.drawn_lesions import draw_lesion, photograph
from skinkd.data.drawn_looks import LOOKS

IMAGE_SIZE = (192, 256)
"""Height and width of an example, px."""
JPEG_QUALITY = 92
SEED = 4
"""Of the drawings: seven lesions in which the marks of their classes are easy to see."""


def draw_examples() -> dict[str, bytes]:
    """Return a JPEG for each class of the embedded dataset.

    Each lesion has the look of its class alone; the lesions of the dataset partly look like those of another class.
    """
    drawn = {}
    for number, (name, look) in enumerate(LOOKS.items()):
        rng = np.random.default_rng((SEED, number))
        lesion = draw_lesion(look, image_size=IMAGE_SIZE, rng=rng)
        image = photograph(lesion, image_size=IMAGE_SIZE, rng=rng)[0]
        drawn[name] = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    return drawn
