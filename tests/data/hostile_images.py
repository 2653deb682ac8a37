"""Images that are made to fill memory, to take long, or to be taken for something else; each is made in memory."""

import io
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

PIXELS = cv2.resize(
    np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8), (40, 30), interpolation=cv2.INTER_CUBIC
)


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


JPEG, PNG, WEBP, BMP, TIFF = (encoded(PIXELS, kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, interlaced: int = 0, before: bytes = b"") -> bytes:
    """A black PNG of any size; ``before`` are chunks before the pixels."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    sizes = [(width, height)]
    if interlaced:  # Adam7: first column and row, and steps, of its seven passes
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
        sizes = [(-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in passes]
    pack = zlib.compressobj(1)
    rows = [pack.compress(bytes(1 + wide * samples * depth // 8)) for wide, high in sizes for _ in range(high)]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    pixels = b"".join(rows) + pack.flush()
    return PNG[:8] + chunk(b"IHDR", header) + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg(width: int, height: int, *, progressive: bool = False, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), "white").save(file, "JPEG", progressive=progressive, **options)
    return file.getvalue()


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG with its last scan repeated."""
    data = jpeg(side, side, progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def tiff(tags: dict[int, tuple[int, int, int]], tail: bytes = b"", entries: int | None = None) -> bytes:
    """A TIFF of one directory: tag -> (type, count, value or place)."""
    body = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, entries or len(tags)) + body + bytes(4) + tail


def _tiff_tags(width: int, height: int, place: int, length: int) -> dict[int, tuple[int, int, int]]:
    return {
        **{256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 277: (3, 1, 1)},
        **{273: (4, 1, place), 278: (4, 1, height), 279: (4, 1, length)},
    }


def tags_of_one_place() -> bytes:
    """Four hundred tags, all of which hold the same eight megabytes."""
    own = {40000 + number: (7, 8_000_000, 200) for number in range(400)}
    return tiff(_tiff_tags(8, 8, 200, 64) | own, bytes(8_000_000))


def huge_tile() -> bytes:
    tile = {322: (4, 1, 30000), 323: (4, 1, 30000), 324: (4, 1, 8), 325: (4, 1, 64)}
    plain = {tag: entry for tag, entry in _tiff_tags(8, 8, 8, 64).items() if tag not in (273, 278, 279)}
    return tiff(plain | tile, bytes(1000))


def overlapping_strips() -> bytes:
    """A deflated TIFF with a strip for each of 20,000 rows, all of them the same megabyte."""
    rows, start = 20_000, 200
    tags = _tiff_tags(100, rows, 0, 0) | {259: (3, 1, 8), 278: (4, 1, 1)}
    tags |= {273: (4, rows, start), 279: (4, rows, start + 4 * rows)}
    place = start + 8 * rows
    tail = struct.pack("<I", place) * rows + struct.pack("<I", 1_000_000) * rows + bytes(1_000_000)
    head = tiff(tags)
    return head + bytes(start - len(head)) + tail


def bmp(width: int, height: int, *, bits: int = 24, data: bytes = b"") -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + header + data


def animation(kind: str) -> bytes:
    frames = [Image.fromarray(np.full((30, 40, 3), shade, np.uint8)) for shade in range(0, 250, 10)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


BOMB = zlib.compress(bytes(1_000_000), 9)
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is empty"),
    "svg": (lambda: b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing"),
    "html": (lambda: b"\xef\xbb\xbf\n<!DOCTYPE html><html>404</html>", "is an HTML page"),
    "dicom": (lambda: bytes(128) + b"DICM" + bytes(500), "is a DICOM file"),
    "heic": (lambda: b"\0\0\0\x18ftypheic" + bytes(500), "is a HEIC image"),
    "avif": (lambda: b"\0\0\0\x18ftypavif" + bytes(500), "is an AVIF image"),
    "gif": (lambda: encoded(PIXELS, "GIF"), "is a GIF"),
    "animated webp": (lambda: animation("WEBP"), "is an animation"),
    "pdf": (lambda: b"%PDF-1.7\n", "is a PDF"),
    "zip": (lambda: b"PK\x03\x04" + bytes(100), "is a ZIP archive"),
    "text": (lambda: b"lesion", "is not an image of a known kind"),
    "rubbish": (lambda: np.random.default_rng(1).bytes(100_000), "is not an image of a known kind"),
    "half a jpeg": (lambda: JPEG[: len(JPEG) // 2], "is truncated"),
    "half a png": (lambda: PNG[: len(PNG) // 2], "is truncated"),
    "half a webp": (lambda: WEBP[: len(WEBP) // 2], "is truncated"),
    "half a bmp": (lambda: BMP[: len(BMP) // 2], "is truncated"),
    "half a tiff": (lambda: TIFF[: len(TIFF) // 2], ""),
    "start of a jpeg": (lambda: JPEG[:2], "is truncated"),
    "start of a png": (lambda: PNG[:8], "is truncated"),
    "jpeg of 30,000 px": (lambda: jpeg(8, 8).replace(b"\0\x08\0\x08", b"\x75\x30\x75\x30"), "has 30000×30000 pixels"),
    "png of 144 MP": (
        lambda: PNG[:16] + struct.pack(">II", 12000, 12000) + PNG[24:],
        "has 12000×12000 pixels, more than max_pixels=25000000",
    ),
    "png of 60,000 px": (lambda: PNG[:16] + struct.pack(">II", 60000, 60000) + PNG[24:], "has 60000×60000 pixels"),
    "png of one row": (lambda: png(1_000_000, 1), "has 1000000×1 pixels: one side is more than 100 times the other"),
    "png of no pixels": (lambda: PNG[:16] + struct.pack(">II", 0, 5) + PNG[24:], "has 0×5 pixels"),
    "png of chunks": (lambda: PNG[:33] + chunk(b"tEXt", b"") * 70_000 + PNG[33:], "of more than 65536 chunks"),
    "jpeg of segments": (lambda: JPEG[:2] + b"\xff\xfe\0\2" * 70_000 + JPEG[2:], "of more than 65536 segments"),
    "jpeg of fill bytes": (lambda: JPEG[:2] + b"\xff" * 30_000_000 + JPEG[2:], "of more than 65536 segments"),
    "jpeg of scans": (lambda: many_scans(400, 500), "is a JPEG of 509 scans"),
    "arithmetic jpeg": (lambda: JPEG.replace(b"\xff\xc0", b"\xff\xc9"), "with arithmetic coding"),
    "cmyk jpeg of 25 MP": (
        lambda: jpeg(8, 8, mode="CMYK").replace(b"\0\x08\0\x08", b"\x13\x88\x13\x88"),
        "more memory than",
    ),
    "bmp of a wrong size": (lambda: bmp(4000, 4000, data=bytes(1000)), "is truncated"),
    "bmp of a negative width": (lambda: bmp(-40, 30, data=bytes(4000)), "has -40×30 pixels"),
    "tags of one place": (tags_of_one_place, "is a TIFF whose tags hold"),
    "too many tags": (lambda: tiff({256: (4, 1, 1)}, bytes(20_000), entries=60_000), "is a TIFF of more than 512 tags"),
    "huge tile": (huge_tile, "is a TIFF whose tiles have 900000000 pixels"),
    "tag without end": (lambda: tiff(_tiff_tags(8, 8, 8, 64) | {40000: (4, 2**31, 8)}), "is a TIFF whose tags hold"),
    "overlapping strips": (overlapping_strips, "is a TIFF whose parts overlap"),
    "jpeg in a tiff": (
        lambda: encoded(PIXELS, "TIFF", compression="jpeg"),
        "is a TIFF of compression 7; give one of none,",
    ),
    "png with pixels behind its pixels": (
        lambda: PNG[:33] + chunk(b"IDAT", zlib.compress(_noise(400).tobytes(), 0)) + PNG[-12:],
        "is a PNG with more bytes of pixels than its size has",
    ),
    "bigtiff": (lambda: b"II+\0" + bytes(50), "is a BigTIFF"),
    "float tiff": (lambda: encoded(PIXELS[:, :, 0].astype(np.float32), "TIFF"), "is a TIFF of 32 bits per sample"),
}
"""Files that must be refused, with words of the refusal."""

SIDE = 5000
"""Of an image of 25 megapixels."""
LARGE: dict[str, Callable[[int], bytes]] = {
    "jpeg": lambda side: jpeg(side, side, quality=95),
    "turned jpeg": lambda side: jpeg(side, side, exif=_turned()),
    "progressive jpeg": lambda side: jpeg(side, side, progressive=True, subsampling=0),
    "jpeg of 16 scans": lambda side: many_scans(side, 7),
    "jpeg of 60 scans": lambda side: many_scans(side // 2, 50),
    "noisy progressive jpeg": lambda side: _noisy_jpeg(side * 4 // 5, progressive=True),
    "noisy jpeg": lambda side: _noisy_jpeg(side * 4 // 5, progressive=False),
    "cmyk jpeg": lambda side: jpeg(side * 9 // 10, side * 9 // 10, mode="CMYK", progressive=True),
    "much too long": lambda side: JPEG + bytes(5 * side**2),
    "png": lambda side: png(side, side),
    "noisy png": lambda side: encoded(_noise(side * 7 // 8), "PNG", compress_level=0),
    "interlaced png": lambda side: png(side, side, interlaced=1),
    "interlaced png of 16 bits": lambda side: png(side, side, depth=16, interlaced=1),
    "png with alpha": lambda side: png(side, side, colour=6),
    "interlaced png of 16 bits with alpha": lambda side: png(side, side, colour=6, depth=16, interlaced=1),
    "png with texts that inflate": lambda side: png(100, 100, before=chunk(b"zTXt", b"a\0\0" + BOMB) * (side * 12)),
    "png with a profile that inflates": lambda side: png(100, 100, before=chunk(b"iCCP", b"a\0\0" + _bomb(side**2))),
    "animated png": lambda side: animation("PNG"),
    "webp": lambda side: encoded(_black(side), "WEBP", method=0),
    "lossless webp": lambda side: encoded(_black(side), "WEBP", lossless=True, quality=0),
    "webp with alpha": lambda side: encoded(_black(side * 9 // 10, 4), "WEBP", lossless=True, quality=0),
    "bmp": lambda side: encoded(_black(side * 4 // 5), "BMP"),
    "tiff": lambda side: encoded(_black(side * 4 // 5), "TIFF"),
    "deflated tiff": lambda side: encoded(_black(side), "TIFF", compression="tiff_adobe_deflate"),
    "tiff with alpha": lambda side: encoded(_black(side * 9 // 10, 4), "TIFF", compression="tiff_lzw"),
    "tiff of many pages": lambda side: animation("TIFF"),
}
"""Files near the limits of ``side`` ² pixels and of memory, which may be decoded or refused."""


def _bomb(size: int) -> bytes:
    pack = zlib.compressobj(9)
    return b"".join(pack.compress(bytes(1_000_000)) for _ in range(12 * size // 1_000_000)) + pack.flush()


def _black(side: int, channels: int = 3) -> np.ndarray:
    return np.zeros((side, side, channels), np.uint8)


def _noise(side: int) -> np.ndarray:
    return np.frombuffer(np.random.default_rng(0).bytes(side * side * 3), np.uint8).reshape(side, side, 3)


def _noisy_jpeg(side: int, *, progressive: bool) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    return cv2.imencode(".jpg", _noise(side), options)[1].tobytes()


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[274] = 6
    return exif
