"""Reads an image file as the exported network takes it. Needs NumPy and OpenCV alone.

The steps, for an image of any size and format that OpenCV reads:

1. decode to 8-bit RGB, turned upright by the EXIF orientation; transparency is dropped;
2. resize so that the shorter side has ``image_size`` pixels: by area averages if the image shrinks, bilinearly if it grows;
3. cut out the central square.
"""

import json
from pathlib import Path

import cv2
import numpy as np


def read_image(path: str | Path, image_size: int | None = None) -> np.ndarray:
    """Return an image as uint8 RGB (3, image_size, image_size); ``image_size`` is that of preprocess.json next to this file.

    Stack images to (N, 3, H, W) for the network, and divide them by 255 as float32 if its input is float.
    """
    if image_size is None:
        image_size = json.loads(Path(__file__).with_name("preprocess.json").read_text("utf-8"))["image_size"]
    image = cv2.imdecode(np.frombuffer(Path(path).read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} cannot be decoded as an image")
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    height, width = image.shape[:2]
    scale = image_size / min(height, width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    if (new_height, new_width) != (height, width):
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = cv2.resize(image, (new_width, new_height), interpolation=how)
    top, left = (new_height - image_size) // 2, (new_width - image_size) // 2
    square = image[top : top + image_size, left : left + image_size]
    return np.ascontiguousarray(square.transpose(2, 0, 1))
