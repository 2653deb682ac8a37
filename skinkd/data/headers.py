"""What the header of an encoded image says, read without decoding and in bounded time and memory."""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from skinkd.data.file_ends import JPEG_END, JPEG_START, PNG_START
from skinkd.data.tiff import LENGTHS, ImageRefusedError, exif_orientation, tiff_colour_problem, tiff_tags

_MOST_PARTS = 65_536  # chunks of a PNG, segments of a JPEG; cameras write dozens
_MOST_SCANS = 64  # of a progressive JPEG; encoders write about ten
_MOST_SCANNED = 400_000_000  # pixels, each counted in every scan
_KEPT_OF_PNG = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
_MOST_EXIF = 65_536  # bytes, as in a JPEG
_UNCHECKED_DEFLATE = 250_000  # bytes, which inflate to 260 MB at most
_INFLATED_AT_ONCE = 65_536  # bytes of a PNG's pixels
_TIFF_COMPRESSIONS = {1: "none", 5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits"}

# offset, bytes there, and what such a file is
_OTHERS = (
    (128, b"DICM", "is a DICOM file"),
    (0, b"GIF8", "is a GIF"),
    (0, b"%PDF", "is a PDF"),
    (0, b"PK\x03\x04", "is a ZIP archive"),
    (0, b"\x00\x00\x00\x0cjP  ", "is a JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "is a JPEG 2000 image"),
    (0, b"II+\x00", "is a BigTIFF"),
    (0, b"MM\x00+", "is a BigTIFF"),
)
_HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


class Header(NamedTuple):
    """What an image's header says.

    Attributes:
        kind: JPEG, PNG, WebP, BMP or TIFF.
        width: of the image as it is stored, px.
        height: of the image as it is stored, px.
        alpha: whether it has transparent pixels.
        orientation: EXIF's, 1 to 8; known for images with alpha alone, because OpenCV turns the others.
        working_bytes: of memory for each pixel while it is decoded, as measured with OpenCV 4.14 and Pillow 13.
    """

    kind: str
    width: int
    height: int
    alpha: bool
    orientation: int
    working_bytes: int


def read_header(data: bytes) -> Header:
    """Return the header of a JPEG, PNG, WebP, BMP or TIFF.

    Raises:
        ImageRefusedError: the data are no such image, or are cut off, or their header is damaged.
    """
    if not data:
        raise ImageRefusedError("is empty")
    try:
        if data.startswith(JPEG_START):
            header = _jpeg(data)
        elif data.startswith(PNG_START):
            header = _png(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            header = _webp(data)
        elif data.startswith(b"BM"):
            header = _bmp(data)
        elif data[:4] in (b"II*\x00", b"MM\x00*"):
            header = _tiff(data)
        else:
            raise ImageRefusedError(f"{_other_kind(data)}; give a JPEG, PNG, WebP, BMP or TIFF")
    except (IndexError, ValueError, struct.error):
        raise ImageRefusedError("is truncated") from None
    if min(header.width, header.height) < 1:
        raise ImageRefusedError(f"has {header.width}×{header.height} pixels")
    return header


def _other_kind(data: bytes) -> str:
    """Return in words what data are that are no image of a known kind."""
    for place, mark, words in _OTHERS:
        if data[place : place + len(mark)] == mark:
            return words
    if data[4:8] == b"ftyp":
        return "is a HEIC image" if data[8:12] in _HEIC else "is an AVIF image or a video"
    text = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<") and b"<svg" in text:
        return "is an SVG drawing"
    if text.startswith((b"<!doctype html", b"<html")):
        return "is an HTML page"
    return "is not an image of a known kind"


# ---------------------------------------------------------------- JPEG


def _jpeg(data: bytes) -> Header:
    """Read the segments before the first scan. A thumbnail inside a segment has scans and an end of its own."""
    at, frame = 2, None
    for _ in range(_MOST_PARTS):
        at = data.index(b"\xff", at)  # decoders skip bytes between segments too
        marker = data[at + 1]
        if marker == 0xDA:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = (marker, *struct.unpack_from(">HHB", data, at + 5))
        at += 1 if marker == 0xFF else 2 + _unsigned(data, at + 2, 2)
    else:
        raise ImageRefusedError(f"is a JPEG of more than {_MOST_PARTS} segments")
    if frame is None:
        raise ImageRefusedError("is a damaged JPEG")
    if data.find(JPEG_END, at) < 0:
        raise ImageRefusedError("is truncated")
    marker, height, width, components = frame
    if marker > 0xC8:
        raise ImageRefusedError("is a JPEG with arithmetic coding, which is not read")
    scans = data.count(b"\xff\xda", at)
    if scans > 1 and (scans > _MOST_SCANS or scans * width * height > _MOST_SCANNED):
        raise ImageRefusedError(f"is a JPEG of {scans} scans, too many for its {width}×{height} pixels")
    # the pixels and the coefficients of all scans, 2 bytes each
    return Header("JPEG", width, height, False, 1, 9 if components <= 3 else 13)


# ---------------------------------------------------------------- PNG


def _png(data: bytes) -> Header:
    width, height, _, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    alpha, orientation = colour in (4, 6), 1
    for kind, start, end in _png_chunks(data):
        alpha |= kind == b"tRNS"
        if kind == b"eXIf" and end - start <= _MOST_EXIF:
            orientation = exif_orientation(data[start + 8 : end - 4])
    return Header("PNG", width, height, alpha, orientation if alpha else 1, 9 if alpha or interlaced else 7)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of every chunk up to the last, IEND."""
    at = len(PNG_START)
    for number in range(_MOST_PARTS):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise ImageRefusedError("is truncated")
        if number == 0 and kind != b"IHDR":
            raise ImageRefusedError("is a damaged PNG")
        yield kind, at, end
        if kind == b"IEND":
            return
        at = end
    raise ImageRefusedError(f"is a PNG of more than {_MOST_PARTS} chunks")


def png_pixels_alone(data: bytes) -> bytes:
    """Return a PNG without the chunks that do not change its pixels: a text or a profile may inflate without bound.

    Raises:
        ImageRefusedError: its pixels inflate to more bytes than the header says; decoders would inflate all of them.
    """
    kept = [
        (kind, start, end)
        for kind, start, end in _png_chunks(data)
        if kind in _KEPT_OF_PNG and (kind != b"eXIf" or end - start <= _MOST_EXIF)
    ]
    pieces = [(start + 8, end - 4) for kind, start, end in kept if kind == b"IDAT"]
    if sum(end - start for start, end in pieces) > _UNCHECKED_DEFLATE:
        _check_inflated(data, pieces)
    return data[: len(PNG_START)] + b"".join(data[start:end] for _, start, end in kept)


def _check_inflated(data: bytes, pieces: list[tuple[int, int]]) -> None:
    """Inflate the compressed pixels of a PNG, in these pieces of its data, until they are more than the header says."""
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    samples = {0: 1, 2: 3, 3: 1, 4: 2}.get(colour, 4)
    # an interlaced image has almost two rows for each of its own, each with a filter byte and a rounded end
    left = width * height * samples * depth // 8 + 4 * height + 100
    inflate = zlib.decompressobj()
    for start, end in pieces:
        for at in range(start, end, _INFLATED_AT_ONCE):
            rest = data[at : min(at + _INFLATED_AT_ONCE, end)]
            while rest and not inflate.eof:
                try:
                    left -= len(inflate.decompress(rest, 16 * _INFLATED_AT_ONCE))
                except zlib.error:
                    raise ImageRefusedError("is a damaged PNG") from None
                rest = inflate.unconsumed_tail
                if left < 0:
                    raise ImageRefusedError("is a PNG with more bytes of pixels than its size has")


# ---------------------------------------------------------------- WebP and BMP


def _webp(data: bytes) -> Header:
    if len(data) < 8 + _unsigned(data, 4, 4, "little"):
        raise ImageRefusedError("is truncated")
    kind, orientation = data[12:16], 1
    if kind == b"VP8X":
        if data[20] & 0x02:
            raise ImageRefusedError("is an animation; give a still image")
        width, height = (1 + _unsigned(data, place, 3, "little") for place in (24, 27))
        alpha, orientation = bool(data[20] & 0x10), _webp_orientation(data)
    elif kind == b"VP8L":
        bits = _unsigned(data, 21, 4, "little")
        width, height, alpha = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), bool(bits >> 28 & 1)
    elif kind == b"VP8 ":
        width, height, alpha = (
            _unsigned(data, 26, 2, "little") & 0x3FFF,
            _unsigned(data, 28, 2, "little") & 0x3FFF,
            False,
        )
    else:
        raise ImageRefusedError("is a damaged WebP")
    return Header("WebP", width, height, alpha, orientation, 11 if alpha else 7)


def _webp_orientation(data: bytes) -> int:
    at = 12
    for _ in range(_MOST_PARTS):
        kind, length = data[at : at + 4], _unsigned(data, at + 4, 4, "little") if at + 8 <= len(data) else 0
        if kind == b"EXIF":
            return exif_orientation(data[at + 8 : at + 8 + min(length, _MOST_EXIF)].removeprefix(b"Exif\0\0"))
        at += 8 + length + length % 2
        if at >= len(data):
            break
    return 1


def _bmp(data: bytes) -> Header:
    place, size = struct.unpack_from("<II", data, 10)
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)
    if compression in (0, 3) and len(data) < place + (width * bits + 31) // 32 * 4 * height:
        raise ImageRefusedError("is truncated")
    return Header("BMP", width, height, bits == 32, 1, 11 if bits == 32 else 7)


# ---------------------------------------------------------------- TIFF


def _tiff(data: bytes) -> Header:
    """Read the first directory: the other pages of a file are not decoded."""
    tags = tiff_tags(data)
    width, height = (tags.get(tag, 0) for tag in (256, 257))
    bits, samples, compression = tags.get(258, 1), tags.get(277, 1), tags.get(259, 1)
    if compression not in _TIFF_COMPRESSIONS:
        names = ", ".join(dict.fromkeys(_TIFF_COMPRESSIONS.values()))
        raise ImageRefusedError(f"is a TIFF of compression {compression}; give one of {names}")
    if problem := tiff_colour_problem(data):
        raise ImageRefusedError(problem)
    if bits > 16:
        raise ImageRefusedError(f"is a TIFF of {bits} bits per sample; give 8 or 16")
    tile = tags.get(322, 0) * tags.get(323, 0)
    if tile > max(4 * width * height, 512 * 512):
        raise ImageRefusedError(f"is a TIFF whose tiles have {tile} pixels, more than the image")
    if max(tags.get(tag, 0) for tag in LENGTHS) > 2 * len(data):
        raise ImageRefusedError("is a TIFF whose parts overlap")
    alpha = 338 in tags and samples in (2, 4) and tags.get(262, 2) in (0, 1, 2)
    return Header("TIFF", width, height, alpha, 1, 5 + samples * max(1, bits // 8))


def _unsigned(data: bytes, place: int, size: int, order: str = "big") -> int:
    """Return the whole number in ``size`` bytes at ``place``.

    Raises:
        IndexError: the data end before.
    """
    number = data[place : place + size]
    if len(number) < size:
        raise IndexError
    return int.from_bytes(number, "little" if order == "little" else "big")
