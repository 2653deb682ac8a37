"""Files that are no image, or too large an image, and what the page says of each."""

import struct
import zlib

import cv2
import numpy as np

from skinkd.web.examples import draw_examples


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb() -> bytes:
    """900 million black pixels in 900 kB."""
    pack = zlib.compressobj(9)
    row = bytes(1 + 30_000 // 8)
    pixels = b"".join(pack.compress(row) for _ in range(30_000)) + pack.flush()
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def large_jpeg() -> bytes:
    return cv2.imencode(".jpg", np.full((10_000, 10_000), 200, np.uint8))[1].tobytes()


HOSTILE = {
    "bomb.png": (png_bomb, "The file has 30000×30000 pixels, more than max_pixels=25000000"),
    "large.jpg": (large_jpeg, "The file has 10000×10000 pixels, more than max_pixels=25000000"),
    "drawing.svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', "The file is an SVG drawing"),
    "page.jpg": (lambda: b"<!doctype html><script>alert(1)</script>", "The file is an HTML page"),
    "empty.jpg": (lambda: b"", "No image arrived"),
    "cut.jpg": (lambda: draw_examples()["mel"][:3000], "The file is truncated"),
    "huge.jpg": (lambda: b"\xff\xd8\xff" + bytes(21_000_000), "The file is larger than 20 MB"),
}
