"""Checksums of files, and perceptual hashes of images, which are stored for later runs."""

import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from skinkd.data.arrays import file_of, read_array_image, split_path
from skinkd.data.files import decode, read_regular
from skinkd.errors import UserError
from skinkd.runs.files import written_atomically

VERSION = 1
"""Part of the name of every stored file: raise it with every change of a hash."""

SIDE, KEPT = 64, 16  # the image is shrunk to SIDE × SIDE, KEPT × KEPT coefficients are kept
LARGE_FILE = 200_000  # bytes; such files are decoded at a quarter of their resolution, which still exceeds SIDE
CHUNK = 64
_BLOCK = 1 << 20


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """Return the 256-bit DCT hash of an image, uint8 (H, W, 3) or (H, W), as uint64 (4,).

    The image is made grey and 64×64, and a discrete cosine transform gives its 16×16 lowest frequencies. A bit says
    whether a coefficient is above the median of all but the mean's. It is pHash (Zauner, Implementation and Benchmarking
    of Perceptual Image Hash Functions, 2010) with 256 bits instead of 64, which is ours. Measured on HAM10000: a copy at
    0.6 of the size and JPEG quality 60 differs in 10 bits (median; 99 % in at most 24), and none of three million pairs
    of different lesions differs in 40 bits or fewer; 64 bits could not tell lesions of one shape apart. A flipped or
    turned image has another hash, and so has another photograph of the lesion.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:KEPT, :KEPT].ravel()
    return np.packbits(low > np.median(low[1:])).view(np.uint64)


def image_hashes(paths: Sequence[str], *, memory: Path | None) -> np.ndarray:
    """Return the perceptual hash of each image, uint64 (N, 4); 0 for a file that cannot be decoded.

    Args:
        paths: files, or places in array files.
        memory: folder that stores the result, by paths, sizes and times of change; None: it is not stored.
    """
    return _remember("hashes", paths, memory, _hash_file, np.dtype((np.uint64, 4)), "hashing images")


def file_digests(paths: Sequence[str], *, memory: Path | None) -> np.ndarray:
    """Return the SHA-256 of each image's bytes as stored, bytes (N,) of 64 hexadecimal digits, or b"".

    Arguments as :func:`image_hashes`; b"" stands for a file that cannot be read.
    """
    return _remember("digests", paths, memory, _digest_file, np.dtype("S64"), "reading images")


def load_stored(file: Path, dtype: np.dtype) -> np.ndarray | None:
    """Return an array that :func:`store` wrote; None if there is none, or it is damaged or of another type."""
    try:
        stored = np.load(file)
    except (OSError, ValueError, EOFError):
        return None
    return stored if isinstance(stored, np.ndarray) and stored.dtype == dtype else None


def store(file: Path, array: np.ndarray) -> None:
    """Write an array for later runs; a process that is killed leaves no half of it."""
    with written_atomically(file, sync=False) as temporary, temporary.open("wb") as stream:
        np.save(stream, array)


def file_checksum(path: Path, like: str) -> str:
    """Return a file's checksum, of the kind of ``like``: "md5:<hexadecimal>" or "sha256:<hexadecimal>"."""
    kind = like.partition(":")[0]
    with path.open("rb") as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"


def file_crc(path: Path) -> int:
    """Return a file's CRC-32, as a ZIP archive states it of each file in it."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc


def _hash_file(path: str) -> np.ndarray:
    nothing = np.zeros(4, np.uint64)
    place = split_path(path)
    if place:
        return perceptual_hash(read_array_image(*place))
    try:
        data = read_regular(path)
    except OSError:
        return nothing
    image = decode(data, cv2.IMREAD_REDUCED_GRAYSCALE_4 if len(data) >= LARGE_FILE else cv2.IMREAD_COLOR)
    return nothing if image is None else perceptual_hash(image)


def _digest_file(path: str) -> bytes:
    place = split_path(path)
    try:
        data = read_array_image(*place).tobytes() if place else read_regular(path)
    except (OSError, UserError):
        return b""
    return hashlib.sha256(data).hexdigest().encode()


def _remember(
    kind: str,
    paths: Sequence[str],
    memory: Path | None,
    measure: Callable[[str], object],
    dtype: np.dtype,
    words: str,
) -> np.ndarray:
    file = None if memory is None else memory / f"{kind}-{VERSION}-{_state(paths)}.npy"
    if file is not None:
        stored = load_stored(file, dtype.base)
        if stored is not None and stored.shape == (len(paths), *dtype.shape):
            return stored
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    values: list[object] = []
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(paths), desc=words, unit="image", disable=None, leave=False) as bar,
    ):
        for chunk in pool.map(lambda chunk: [measure(path) for path in chunk], chunks):
            values += chunk
            bar.update(len(chunk))
    result = np.array(values, dtype=dtype.base).reshape(len(paths), *dtype.shape)
    if file is not None:
        store(file, result)
    return result


def _state(paths: Sequence[str]) -> str:
    """Return a digest of the paths and of the sizes and times of change of their files."""
    words: list[str] = []
    states: dict[str, str] = {}
    for path in paths:
        file = file_of(path)
        if file not in states:
            try:
                status = os.stat(file)
                states[file] = f"{status.st_size}:{status.st_mtime_ns}"
            except OSError:
                states[file] = "absent"
        words += (path, states[file])
    return hashlib.sha256("".join(f"{word}\0" for word in words).encode()).hexdigest()[:24]
