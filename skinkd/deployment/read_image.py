"""Reads an image file as the exported network takes it, with the same pixels as skinkd.predict. Needs NumPy and OpenCV alone.

A JPEG, PNG, WebP, BMP or TIFF becomes 8-bit RGB, upright by its EXIF orientation, with transparent pixels on white. It is
resized (area averages to shrink, bilinear to grow) until the shorter side is ``image_size``, and cut to the central square.
"""

import json
import re
from pathlib import Path

import cv2
import numpy as np

STARTS = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*")
TIFF_ALPHA = re.compile(rb"\x52\x01\x03\0[\x01-\x04]\0\0\0|\x01\x52\0\x03\0\0\0[\x01-\x04]")  # the tag ExtraSamples
TURNED = re.compile(rb"\x12\x01\x03\0\x01\0\0\0[\x02-\x08]|\x01\x12\0\x03\0\0\0\x01\0[\x02-\x08]")  # an orientation


def read_image(path: str | Path, image_size: int | None = None) -> np.ndarray:
    """Return uint8 RGB (3, image_size, image_size), by default of the size in preprocess.json; ValueError for other files."""
    size = image_size or json.loads(Path(__file__).with_name("preprocess.json").read_text("utf-8"))["image_size"]
    data = Path(path).read_bytes()
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data.startswith(STARTS) else None
    if image is None:
        raise ValueError(f"{path} cannot be decoded: it is damaged, or no JPEG, PNG, WebP, BMP or TIFF")
    stored = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
    tiff = data[:2] in (b"II", b"MM")
    strange = TIFF_ALPHA.search(data) if tiff else b"tRNS" in data and (stored.ndim == 2 or stored.dtype == np.uint16)
    if not tiff and stored.ndim == 3 and stored.shape[2] == 4:
        eight = stored >> 8 if stored.dtype == np.uint16 else stored
        colours, alpha = np.split(eight.astype(np.uint16), [3], axis=2)
        strange = strange or (alpha.min() < 255 and TURNED.search(data))
        image = image if alpha.min() == 255 else (colours * alpha + 255 * (255 - alpha) + 127) // 255
    if strange:
        raise ValueError(f"{path} has transparency that this reader cannot lay on white; save it as PNG in 8-bit RGB")
    image, scale = image[..., ::-1].astype(np.uint8), size / min(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (height - size) // 2, (width - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size].transpose(2, 0, 1))
