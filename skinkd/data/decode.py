"""Reads a single image that a user gives: any file may come, and either its pixels or one sentence comes back.

Training's reader (:func:`skinkd.data.files.read_image`) serves a dataset that was checked before. An image without transparency
that both readers take has the same pixels in both.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from skinkd.data.files import open_regular, pixels_of
from skinkd.data.headers import Header, ImageRefusedError, png_pixels_alone, read_header
from skinkd.errors import UserError, check_whole

# the refusal says it; OpenCV would print a line for each damaged image too
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_BYTES_TO_DECODE = 11  # for each of max_pixels: 275 MB for 25 megapixels
_BYTES_OF_FILE = 4  # for each of max_pixels; the pixels themselves take three
_ALWAYS = 1_000_000  # bytes more, for small values of max_pixels
_LONGEST = 100  # times the shorter side, by which a network scales an image: the longer one could fill the memory
_ROWS = 256  # that are laid on white at once


def decode_file(path: str | Path, *, max_pixels: int) -> np.ndarray:
    """Return the pixels of an image file, as :func:`decode_image` does.

    Raises:
        UserError: the file cannot be read, is a folder, pipe or device, or holds no image that is decoded.
    """
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            data = file.read(_most_bytes(max_pixels) + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    return decode_image(data, max_pixels=max_pixels, name=str(path))


def decode_image(data: bytes, *, max_pixels: int, name: str = "the image") -> np.ndarray:
    """Return the pixels of an encoded image, uint8 RGB (H, W, 3), upright, with transparent pixels on white.

    JPEG (also CMYK), PNG, WebP, BMP and the first page of a TIFF are decoded. Of 16 bits the upper 8 are kept, as in training.
    The size is read from the header first. With ``max_pixels`` of 25 million, no file takes more than 300 MB.

    Args:
        data: the encoded image.
        max_pixels: most pixels of an image. It also limits the memory for decoding and the length of ``data``.
        name: of the image, with which the sentence begins.

    Raises:
        UserError: the data are of another kind, damaged, cut off, or too large.
    """
    check_whole("max_pixels", max_pixels, 1)
    try:
        if len(data) > _most_bytes(max_pixels):
            raise ImageRefusedError(
                f"has more than the {_most_bytes(max_pixels)} bytes that max_pixels={max_pixels} allows"
            )
        header = read_header(data)
        _check_size(header, len(data), max_pixels)
        image = _on_white(data, header) if header.alpha else pixels_of(_pixels_alone(data, header))
    except ImageRefusedError as problem:
        raise UserError(f"{name} {problem}") from None
    if image is None:
        raise UserError(f"{name} is a damaged {header.kind}, which cannot be decoded")
    return image


def _check_size(header: Header, length: int, max_pixels: int) -> None:
    """Refuse an image that is too large."""
    size = f"{header.width}×{header.height} pixels"
    if header.width * header.height > max_pixels:
        raise ImageRefusedError(f"has {size}, more than max_pixels={max_pixels}")
    if max(header.width, header.height) > _LONGEST * min(header.width, header.height):
        raise ImageRefusedError(f"has {size}: one side is more than {_LONGEST} times the other")
    needed = 2 * length + header.working_bytes * header.width * header.height
    if needed > _BYTES_TO_DECODE * max_pixels + _ALWAYS:
        raise ImageRefusedError(
            f"is a {header.kind} of {length} bytes with {size}, and decoding it takes more memory than max_pixels={max_pixels} "
            f"allows ({_BYTES_TO_DECODE} bytes for each)"
        )


def _most_bytes(max_pixels: int) -> int:
    return _BYTES_OF_FILE * max_pixels + _ALWAYS


def _pixels_alone(data: bytes, header: Header) -> bytes:
    return png_pixels_alone(data) if header.kind == "PNG" else data


def _on_white(data: bytes, header: Header) -> np.ndarray | None:
    """Decode an image with transparent pixels; None if it is damaged."""
    if header.kind in ("PNG", "TIFF"):  # of which OpenCV drops the transparency in some cases
        try:
            with Image.open(io.BytesIO(_pixels_alone(data, header)), formats=[header.kind]) as stored:
                stored.load()
                result = _composed(lambda *box: np.asarray(stored.crop(box).convert("RGBA")), *stored.size)
        except Exception:  # Pillow raises many kinds of errors for damaged images
            return None
    else:  # Pillow would take much more memory
        pixels = pixels_of(data, cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.ndim == 2 or pixels.shape[2] == 3:
            return pixels_of(data)  # 32 bits of a BMP may hold no alpha
        result = _composed(lambda left, top, right, bottom: pixels[top:bottom], *pixels.shape[1::-1])
    return _turned(result, header.orientation)


def _composed(part: Callable[[int, int, int, int], np.ndarray], width: int, height: int) -> np.ndarray:
    """Lay RGBA pixels on white; ``part`` returns those of (left, top, right, bottom), for little memory at a time."""
    result = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _ROWS):
        bottom = min(top + _ROWS, height)
        pixels = part(0, top, width, bottom).astype(np.uint16)
        alpha = pixels[:, :, 3:]
        result[top:bottom] = (pixels[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return result


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return an image upright that is stored in an EXIF orientation, 1 to 8."""
    mirrored = image[:, ::-1] if orientation in (2, 4, 5, 7) else image
    quarters = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]  # counter-clockwise
    return np.ascontiguousarray(np.rot90(mirrored, quarters))
