"""Directories of TIFF files and EXIF blocks, which have the same form, read in bounded time and memory."""

import struct

import numpy as np

_MOST_TAGS, _MOST_TAG_BYTES = 512, 16_000_000  # of a TIFF; profiles and descriptions take a few megabytes
LENGTHS = (279, 325)  # in bytes, of the strips and of the tiles
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # of a value, by its type

_COLOURS = 262  # the tag PhotometricInterpretation
_CHANGED = {8: "L*a*b* colours", 9: "ICC L*a*b* colours", 10: "ITU L*a*b* colours", 32844: "LogL", 32845: "LogLuv"}


class ImageRefusedError(Exception):
    """An image that is not decoded. The message follows the image's name in a sentence, such as "is truncated"."""


def tiff_tags(data: bytes) -> dict[int, int]:
    """Return the first value of each whole-number tag in the first directory of a TIFF or an EXIF block.

    Of the lengths of strips and tiles it is the sum. A tag whose values are beyond the data is left out.

    Raises:
        ImageRefusedError: the directory is too large, or says so of its values, which decoders read into memory.
        struct.error: the data are cut off.
    """
    order = "<" if data[:2] == b"II" else ">"
    start = struct.unpack_from(f"{order}I", data, 4)[0]
    count = struct.unpack_from(f"{order}H", data, start)[0]
    if count > _MOST_TAGS:
        raise ImageRefusedError(f"is a TIFF of more than {_MOST_TAGS} tags")
    tags, total = {}, 0
    for number in range(count):
        at = start + 2 + 12 * number
        tag, kind, values = struct.unpack_from(f"{order}HHI", data, at)
        size = values * _BYTES.get(kind, 1)
        total += size
        if kind not in (3, 4) or not values:
            continue
        place = at + 8 if size <= 4 else struct.unpack_from(f"{order}I", data, at + 8)[0]
        if total > _MOST_TAG_BYTES or place + size > len(data):
            continue
        numbers = np.frombuffer(data, f"{order}u{_BYTES[kind]}", values, place)
        tags[tag] = int(numbers.sum(dtype=np.uint64) if tag in LENGTHS else numbers[0])
    if total > _MOST_TAG_BYTES:
        raise ImageRefusedError(f"is a TIFF whose tags hold {total / 1e6:.0f} MB")
    return tags


def tiff_colour_problem(data: bytes) -> str | None:
    """Return that a TIFF is in colours that OpenCV changes when it decodes them, or None; of other data None."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return None
    try:
        colours = tiff_tags(data).get(_COLOURS)
    except (ImageRefusedError, ValueError, struct.error):
        return None  # whoever decodes it tells
    return f"is a TIFF in {_CHANGED[colours]}; save it in RGB" if colours in _CHANGED else None


def exif_orientation(payload: bytes) -> int:
    """Return the orientation of an EXIF block, 1 to 8; 1 (upright) if it says none or is damaged."""
    try:
        orientation = tiff_tags(payload).get(274, 1)
    except (ImageRefusedError, ValueError, struct.error):
        return 1
    return orientation if 1 <= orientation <= 8 else 1
