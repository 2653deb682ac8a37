"""The search for near hashes finds the pairs that a comparison of all hashes finds."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skinkd.data import near
from skinkd.data.audit import audit_split
from skinkd.data.near import near_pairs, remembered_pairs
from skinkd.data.splits import measure_leak
from skinkd.data.table import ImageTable


def by_comparison(a: np.ndarray, b: np.ndarray | None, distance: int) -> list[list[int]]:
    """All pairs, by Python's own whole numbers."""
    left, right = ([int.from_bytes(row.tobytes(), "little") for row in hashes] for hashes in (a, a if b is None else b))
    return [
        [i, j]
        for i, x in enumerate(left)
        for j, y in enumerate(right)
        if x and y and (x ^ y).bit_count() <= distance and (b is not None or i < j)
    ]


def clustered(rng: np.random.Generator, *, clusters: int, each: int, flips: int, equal: int = 0) -> np.ndarray:
    """Clusters of hashes that differ in about ``flips`` bits from a centre, ``equal`` copies of the first, and zeros."""
    centres = rng.integers(0, 2**64, (clusters, 4), dtype=np.uint64)
    bits = np.unpackbits(np.repeat(centres, each, axis=0).view(np.uint8), axis=1)
    bits ^= (rng.random(bits.shape) < flips / 256).astype(np.uint8)
    hashes = np.packbits(bits, axis=1).view(np.uint64)
    hashes = np.concatenate([hashes, np.repeat(hashes[:1], equal, axis=0), np.zeros((3, 4), np.uint64)])
    return hashes[rng.permutation(len(hashes))]


@pytest.fixture(autouse=True)
def indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few hashes are searched like many: an index is taken wherever the comparison of all is not the only way."""
    monkeypatch.setattr(near, "_COMPARE", 1e9)


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**32),
    distance=st.sampled_from([0, 1, 2, 5, 10, 11, 12, 17, 24, 31, 32, 33, 40, 48]),
    flips=st.integers(0, 30),
    equal=st.integers(0, 6),
)
def test_pairs_are_those_of_a_comparison_of_all(seed: int, distance: int, flips: int, equal: int) -> None:
    rng = np.random.default_rng(seed)
    a = clustered(rng, clusters=4, each=5, flips=flips, equal=equal)
    b = np.concatenate([a[::2], clustered(rng, clusters=2, each=3, flips=flips, equal=equal)])
    assert near_pairs(a, distance=distance).tolist() == by_comparison(a, None, distance)
    assert near_pairs(a, distance=distance, others=b).tolist() == by_comparison(a, b, distance)


@pytest.mark.parametrize("distance", [0, 12, 32, 128, 255, 256])
def test_every_distance_counts_its_last_bit(distance: int) -> None:
    rng = np.random.default_rng(distance)
    centre = rng.integers(0, 2**64, 4, dtype=np.uint64)
    rows = [centre]
    for bits in (distance, distance + 1):
        flip = np.zeros(256, np.uint8)
        flip[rng.permutation(256)[:bits]] = 1
        rows.append(centre ^ np.packbits(flip).view(np.uint64))
    hashes = np.array(rows, np.uint64)
    found = near_pairs(hashes, distance=distance).tolist()
    assert found == by_comparison(hashes, None, distance)
    assert [0, 1] in found and ([0, 2] in found) == (distance == 256)


@pytest.mark.parametrize("distance", [0, 32, 256])
def test_equal_hashes_and_empty_sets(distance: int) -> None:
    same, none = np.full((7, 4), 5, np.uint64), np.empty((0, 4), np.uint64)
    assert near_pairs(same, distance=distance).tolist() == by_comparison(same, None, 0)
    assert near_pairs(same, distance=distance, others=same[:2]).tolist() == by_comparison(same, same[:2], 0)
    for left, right in ((none, None), (none, same), (same, none), (same[:1], None), (np.zeros_like(same), None)):
        pairs = near_pairs(left, distance=distance, others=right)
        assert pairs.shape == (0, 2) and pairs.dtype == np.int64


@pytest.mark.parametrize("within", [True, False])
def test_hashes_that_share_most_blocks_are_compared_one_with_another(
    within: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly flat images: 200 different hashes that differ in 10 bits only, so that an index finds nearly all of them."""
    flat = np.zeros((200, 4), np.uint64)
    flat[:, 0] = np.arange(1, 201)
    other = None if within else flat[::3] ^ np.uint64(1 << 60)
    expected = by_comparison(flat, other, 5)
    compared: list[int] = []
    all_of_them = near._compare_all
    monkeypatch.setattr(near, "_compare_all", lambda *given: compared.append(1) or all_of_them(*given))
    assert near_pairs(flat, distance=5, others=other).tolist() == expected
    assert not compared  # as many candidates as pairs are allowed here
    monkeypatch.setattr(near, "_CHECK", 1e12)
    assert near_pairs(flat, distance=5, others=other).tolist() == expected
    assert compared


def test_candidates_come_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = clustered(np.random.default_rng(3), clusters=3, each=30, flips=4)
    monkeypatch.setattr(near, "_CANDIDATES", 7)
    monkeypatch.setattr(near, "_TILE", (4, 10))
    expected = by_comparison(hashes, None, 20)
    assert near_pairs(hashes, distance=20).tolist() == expected
    assert sorted(near._compare_all(hashes[hashes.any(axis=1)], None, 256).tolist()) == [
        [i, j] for i in range(90) for j in range(i + 1, 90)
    ]


def test_a_search_is_remembered_by_hashes_and_distance(tmp_path: Path) -> None:
    hashes = clustered(np.random.default_rng(0), clusters=3, each=4, flips=6)
    expected = near_pairs(hashes, distance=32)
    assert len(expected) and np.array_equal(remembered_pairs(hashes, distance=32, memory=tmp_path), expected)
    (file,) = tmp_path.iterdir()
    np.save(file, expected[:1])
    assert len(remembered_pairs(hashes, distance=32, memory=tmp_path)) == 1  # it was read, not searched for
    file.write_bytes(b"damaged")
    assert np.array_equal(remembered_pairs(hashes, distance=32, memory=tmp_path), expected)
    assert not len(remembered_pairs(hashes, distance=0, memory=tmp_path))
    hashes[0, 0] ^= np.uint64(1)
    assert np.array_equal(remembered_pairs(hashes, distance=32, memory=tmp_path), near_pairs(hashes, distance=32))
    assert len(list(tmp_path.iterdir())) == 3


def test_the_audit_names_pairs_in_the_order_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of a pair comes first in the table, the pair is named by its test image, and pairs are sorted by rows."""
    rng = np.random.default_rng(1)
    hashes = clustered(rng, clusters=6, each=8, flips=6)
    n = len(hashes)
    frame = pd.DataFrame(
        {
            "image_id": [f"i{k:03}" for k in range(n)],
            "path": "",
            "label": np.arange(n) % 2,
            "group": rng.integers(0, n // 2, n).astype(str),
        }
    )
    table = ImageTable("made", ("x", "y"), frame)
    parts = pd.Series(rng.choice(["train", "val", "test"], n))
    monkeypatch.setattr("skinkd.data.audit.image_hashes", lambda paths, memory: hashes)
    found = audit_split(table, parts, measure_leak(frame, parts), near_duplicate_bits=20, memory=tmp_path)
    for first, second in (("test", "train"), ("test", "val"), ("val", "train")):
        rows, others = np.flatnonzero(parts == first), np.flatnonzero(parts == second)
        expected = [
            [f"i{rows[i]:03}", f"i{others[j]:03}"]
            for i, j in by_comparison(hashes[rows], hashes[others], 20)
            if frame["group"][rows[i]] != frame["group"][others[j]]
        ]
        got = found["near_duplicates"][f"{first}-{second}"]
        assert got["pairs"] == len(expected) > 0 and got["first"] == expected[:100]
        assert got[f"images_of_{first}"] == len({test for test, _ in expected})
    json.dumps(found, allow_nan=False)
