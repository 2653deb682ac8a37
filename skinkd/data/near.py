"""Pairs of perceptual hashes that differ in few bits: all of them, without comparing all hashes.

Two hashes that differ in at most d bits are nearly equal somewhere. Cut the 256 bits into m blocks, and let d = m·s + a with
a < m. Then one of the first a + 1 blocks differs in at most s bits, or one of the others in at most s − 1 (Norouzi, Punjani,
Fleet, Fast Exact Search in Hamming Space with Multi-Index Hashing, 2014, section 3). So for each block, only hashes are
compared whose blocks differ in so few bits: an index of the block's values finds them.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from math import comb
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from skinkd.data.hashing import load_stored, store

Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]

VERSION = 1
"""Part of the name of every stored file: raise it if the pairs of the same hashes change."""

BITS = 256
WIDEST = 22  # bits of a block; the index has a number for each value of a block
_CANDIDATES = 1 << 20  # compared at a time
# hashes of either side that are compared at a time, where all are: they stay in the processor's cache
_TILE = (16, 8192)
# nanoseconds of a comparison of all with all, of a candidate, a probe and a mask, to choose the number of blocks
_COMPARE, _CHECK, _PROBE, _CALL = 6.0, 15.0, 10.0, 50_000.0
_WORDS = "searching near-duplicates"
_SHOWN_AFTER = 3.0  # seconds; shorter searches show no progress


class _Distinct(NamedTuple):
    """The different values among hashes, and the rows that have each: ``rows[starts[k] : starts[k + 1]]`` have value k."""

    values: Hashes
    rows: Ints
    starts: Ints


class _Block(NamedTuple):
    """Some of the 256 bits, and the number of them in which near hashes may differ there."""

    bits: Ints
    radius: int


def near_pairs(hashes: Hashes, *, distance: int, others: Hashes | None = None) -> Ints:
    """Return the pairs (i, j) of hashes that differ in at most ``distance`` of 256 bits, int64 (M, 2), sorted.

    With ``others``, i indexes ``hashes`` and j ``others``; without, i < j within ``hashes``. A hash of 0 stands for
    a file that could not be decoded, and is in no pair.

    Args:
        hashes: (N, 4), from :func:`skinkd.data.hashing.image_hashes`.
        distance: 0 to 256.
        others: (M, 4) or None.
    """
    left = _distinct(hashes)
    right = left if others is None else _distinct(others)
    near = _search(left.values, None if others is None else right.values, distance)
    if others is not None:
        return _sorted(_rows_of(near, left, right))
    alike = np.flatnonzero(np.diff(left.starts) > 1)  # equal hashes are near each other too
    pairs = _rows_of(np.concatenate([near, np.stack([alike, alike], axis=1)]), left, left)
    return _sorted(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1))


def remembered_pairs(hashes: Hashes, *, distance: int, memory: Path | None) -> Ints:
    """Return ``near_pairs(hashes, distance=distance)``, from a file if it was computed before.

    Args:
        hashes: (N, 4).
        distance: 0 to 256.
        memory: folder that stores the result, by hashes and distance; None: it is not stored.
    """
    if memory is None:
        return near_pairs(hashes, distance=distance)
    content = hashlib.sha256(np.ascontiguousarray(hashes).tobytes()).hexdigest()[:24]
    file = memory / f"pairs-{VERSION}-{distance}-{content}.npy"
    stored = load_stored(file, np.dtype(np.int64))
    if stored is not None and stored.ndim == 2 and stored.shape[1] == 2:
        return stored
    pairs = near_pairs(hashes, distance=distance)
    store(file, pairs)
    return pairs


def _distinct(hashes: Hashes) -> _Distinct:
    rows = np.flatnonzero(hashes.any(axis=1))
    rows = rows[np.lexsort(hashes[rows].T)]
    values = hashes[rows]
    new = np.ones(len(rows), bool)
    new[1:] = (values[1:] != values[:-1]).any(axis=1)
    return _Distinct(values[new], rows, np.append(np.flatnonzero(new), len(rows)))


def _rows_of(near: Ints, left: _Distinct, right: _Distinct) -> Ints:
    """Return all pairs of rows whose values are near, given pairs of values."""
    (first, second), sizes = near.T, (np.diff(left.starts), np.diff(right.starts))
    many = sizes[1][second]
    number, place = _runs(sizes[0][first] * many)
    row = left.rows[left.starts[first][number] + place // many[number]]
    other = right.rows[right.starts[second][number] + place % many[number]]
    return np.stack([row, other], axis=1)


def _sorted(pairs: Ints) -> Ints:
    """Return the pairs sorted, each once."""
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    new = np.ones(len(pairs), bool)
    new[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return pairs[new]


def _runs(lengths: Ints) -> tuple[Ints, Ints]:
    """Return, for each element of runs of these lengths, the run's number and the place in it."""
    number = np.repeat(np.arange(len(lengths)), lengths)
    return number, np.arange(len(number)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _search(left: Hashes, right: Hashes | None, distance: int) -> Ints:
    """Return the near pairs of two sets of different hashes; ``right`` of None: i < j within ``left``."""
    blocks = _plan(left, right, distance)
    if not blocks:
        return _compare_all(left, right, distance)
    masks = sum(comb(len(block.bits), k) for block in blocks for k in range(block.radius + 1))
    most = _pairs(left, right) * _COMPARE / _CHECK / len(blocks)
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=masks, desc=_WORDS, unit="part", disable=None, leave=False, delay=_SHOWN_AFTER) as bar,
    ):
        found = list(pool.map(lambda block: _search_block(left, right, block, distance, most, bar), blocks))
    if any(part is None for part in found):  # so many hashes are alike in a block that its index saves nothing
        return _compare_all(left, right, distance)
    pairs = np.concatenate([part for part in found if part is not None])
    return _sorted(np.sort(pairs, axis=1) if right is None else pairs)


def _pairs(left: Hashes, right: Hashes | None) -> float:
    return len(left) ** 2 / 2 if right is None else len(left) * len(right)


def _plan(left: Hashes, right: Hashes | None, distance: int) -> list[_Block]:
    """Return the blocks that promise the shortest search; none: to compare all hashes takes less time."""
    n, pairs = len(left), _pairs(left, right)
    best, chosen = pairs * _COMPARE, 0
    for blocks in range(-(-BITS // WIDEST), 65):
        nanoseconds, width = 0.0, BITS / blocks
        for k in range(blocks):
            masks = sum(comb(round(width), j) for j in range(_radius(k, blocks, distance) + 1))
            nanoseconds += masks * (_CALL + n * _PROBE + pairs / 2**width * _CHECK)
        if nanoseconds < best:
            best, chosen = nanoseconds, blocks
    if not chosen:
        return []
    # bits that hardly ever differ tell little: each block gets its share of them
    share = np.unpackbits(left.view(np.uint8).reshape(n, -1), axis=1).mean(axis=0)
    order = np.argsort(np.abs(share - 0.5), kind="stable")
    blocks_of_bits = [(np.sort(order[k::chosen]), _radius(k, chosen, distance)) for k in range(chosen)]
    return [_Block(bits, radius) for bits, radius in blocks_of_bits if radius >= 0]


def _radius(block: int, blocks: int, distance: int) -> int:
    """Return the number of bits in which this block of near hashes may differ; −1: the other blocks find all pairs."""
    return distance // blocks - (block > distance % blocks)


def _search_block(
    left: Hashes, right: Hashes | None, block: _Block, distance: int, most: float, bar: "tqdm[None]"
) -> Ints | None:
    """Return the near pairs that are alike in one block, some twice; None if there are more than ``most`` candidates."""
    keys = _keys(left, block.bits)
    order = np.argsort(keys, kind="stable")
    keys, words = keys[order], np.ascontiguousarray(left[order].T)
    other_order, other_keys, other_words = order, keys, words
    if right is not None:
        other_keys = _keys(right, block.bits)
        other_order = np.argsort(other_keys, kind="stable")
        other_keys, other_words = other_keys[other_order], np.ascontiguousarray(right[other_order].T)
    starts = np.zeros(2 ** len(block.bits) + 1, np.int64)
    np.cumsum(np.bincount(other_keys, minlength=len(starts) - 1), out=starts[1:])
    found, candidates = [np.empty((0, 2), np.int64)], 0
    for mask in _masks(len(block.bits), block.radius):
        rows = np.arange(len(keys))
        if right is None and mask:
            rows = np.flatnonzero((keys & (mask & -mask)) == 0)  # the pair's other hash would find it again
        near_keys = keys[rows] ^ mask
        first, counts = starts[near_keys], starts[near_keys + 1] - starts[near_keys]
        if right is None and not mask:
            first, counts = rows + 1, starts[near_keys + 1] - rows - 1  # those behind it with the same key
        for some in _portions(counts):
            run, place = _runs(counts[some])
            row, other = rows[some][run], first[some][run] + place
            near = _near(words, other_words, row, other, distance)
            found.append(np.stack([order[row[near]], other_order[other[near]]], axis=1))
        candidates += int(counts.sum())
        if candidates > most:
            return None
        bar.update()
    return np.concatenate(found)


def _keys(hashes: Hashes, bits: Ints) -> Ints:
    """Return the chosen bits of each hash as one number."""
    keys = np.zeros(len(hashes), np.int64)
    for place, bit in enumerate(bits.tolist()):
        word, shift = divmod(bit, 64)
        keys |= ((hashes[:, word] >> np.uint64(shift)) & np.uint64(1)).astype(np.int64) << place
    return keys


def _masks(width: int, radius: int) -> Iterator[int]:
    """Yield every number of ``width`` bits of which at most ``radius`` are set."""
    for size in range(radius + 1):
        for places in combinations(range(width), size):
            yield sum(1 << place for place in places)


def _portions(counts: Ints) -> Iterator[Ints]:
    """Yield the places of counts above 0, in portions of about ``_CANDIDATES`` candidates."""
    places = np.flatnonzero(counts)
    if len(places):
        total = np.cumsum(counts[places])
        yield from np.split(places, np.flatnonzero(np.diff(total // _CANDIDATES)) + 1)


def _near(words: Hashes, other_words: Hashes, row: Ints, other: Ints, distance: int) -> Ints:
    """Return the places of the pairs that differ in at most ``distance`` bits; words are (4, N)."""
    differ = np.bitwise_count(words[0][row] ^ other_words[0][other]).astype(np.uint16)
    differ += np.bitwise_count(words[1][row] ^ other_words[1][other])
    left = np.flatnonzero(differ <= distance)  # half of the bits rule out most pairs
    rest = differ[left]
    for k in (2, 3):
        rest += np.bitwise_count(words[k][row[left]] ^ other_words[k][other[left]])
    return left[rest <= distance]


def _compare_all(left: Hashes, right: Hashes | None, distance: int) -> Ints:
    """Return what :func:`_search` does, by comparing all hashes."""
    columns = np.ascontiguousarray((left if right is None else right).T)
    height, width = _TILE

    def compare(top: int) -> Ints:
        rows, found = left[top : top + height], [np.empty((0, 2), np.int64)]
        for start in range(top if right is None else 0, columns.shape[1], width):
            differ = np.bitwise_count(rows[:, None, 0] ^ columns[0, start : start + width]).astype(np.uint16)
            for word in (1, 2, 3):
                differ += np.bitwise_count(rows[:, None, word] ^ columns[word, start : start + width])
            near = np.argwhere(differ <= distance) + np.array([top, start])
            found.append(near if right is not None else near[near[:, 0] < near[:, 1]])
        return np.concatenate(found)

    tops = range(0, len(left), height)
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(tops), desc=_WORDS, unit="part", disable=None, leave=False, delay=_SHOWN_AFTER) as bar,
    ):
        found = []
        for part in pool.map(compare, tops):
            found.append(part)
            bar.update()
    return np.concatenate([np.empty((0, 2), np.int64), *found])
