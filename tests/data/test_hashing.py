import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from skinkd.data.arrays import image_path
from skinkd.data.audit import audit_sentence, audit_split
from skinkd.data.ham10000 import load_ham10000, load_synthetic
from skinkd.data.hashing import LARGE_FILE, file_digests, image_hashes, perceptual_hash
from skinkd.data.near import near_pairs
from skinkd.data.splits import measure_leak
from skinkd.data.table import ImageTable
from tests.data.test_files import huge_png


def differing_bits(a: np.ndarray, b: np.ndarray) -> int:
    return sum(bin(int(x) ^ int(y)).count("1") for x, y in zip(a, b, strict=True))


def lesion(seed: int, size: int = 120) -> np.ndarray:
    """Smooth noise: an image with detail at several scales."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.random((cells, cells, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        for cells in (3, 6, 12)
    ]
    return (255 * np.clip(sum(layers) / 3, 0, 1)).astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_copies_are_near_and_others_far(seed: int) -> None:
    image = lesion(seed)
    own = perceptual_hash(image)
    assert own.dtype == np.uint64 and own.shape == (4,)
    smaller = cv2.resize(image, (70, 70), interpolation=cv2.INTER_AREA)
    code = cv2.imencode(".jpg", smaller, (cv2.IMWRITE_JPEG_QUALITY, 60))[1]
    copy = cv2.imdecode(code, cv2.IMREAD_COLOR)
    brighter = np.clip(image * 0.9 + 12, 0, 255).astype(np.uint8)
    assert differing_bits(own, perceptual_hash(copy)) <= 32
    assert differing_bits(own, perceptual_hash(brighter)) <= 32
    for other in (lesion(seed + 100), image[:, ::-1], np.rot90(image)):
        assert differing_bits(own, perceptual_hash(np.ascontiguousarray(other))) > 64


def test_hashes_are_remembered_until_a_file_changes(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{k}.png") for k in range(3)]
    for k, path in enumerate(paths[:2]):
        cv2.imwrite(path, lesion(k)[..., ::-1])
    memory = tmp_path / "memory"
    hashes = image_hashes(paths, memory=memory)
    assert not hashes[2].any() and hashes[:2].any(axis=1).all()
    np.testing.assert_array_equal(hashes[1], perceptual_hash(lesion(1)))
    (remembered,) = memory.iterdir()
    marked = np.load(remembered)
    marked[0] = 7
    np.save(remembered, marked)
    assert (image_hashes(paths, memory=memory)[0] == 7).all()  # it was read, not made
    remembered.write_bytes(b"damaged")
    np.testing.assert_array_equal(image_hashes(paths, memory=memory), hashes)
    cv2.imwrite(paths[0], lesion(5)[..., ::-1])
    np.testing.assert_array_equal(image_hashes(paths, memory=memory)[0], perceptual_hash(lesion(5)))
    assert not np.array_equal(file_digests(paths, memory=None)[0], file_digests(paths, memory=None)[1])
    assert file_digests(paths, memory=memory)[2] == b""


@pytest.mark.parametrize("padding", [0, LARGE_FILE])
def test_an_image_of_a_size_that_opencv_refuses_has_no_hash(tmp_path: Path, padding: int) -> None:
    (tmp_path / "huge.png").write_bytes(huge_png() + bytes(padding))
    assert not image_hashes([str(tmp_path / "huge.png")], memory=None).any()


def test_images_in_array_files_are_hashed_alike(tmp_path: Path) -> None:
    images = np.stack([lesion(k, 40) for k in range(3)])
    np.save(tmp_path / "images.npy", images)
    paths = [image_path(tmp_path / "images.npy", k * 4800, 40, 40, 3) for k in range(3)]
    expected = [perceptual_hash(image) for image in images]
    np.testing.assert_array_equal(image_hashes(paths, memory=None), expected)


def test_the_audit_counts_shared_groups_and_near_duplicates(tmp_path: Path) -> None:
    images = {name: lesion(seed) for name, seed in (("a", 0), ("b", 1), ("c", 2), ("d", 3), ("e", 4))}
    images |= {"copy of a": cv2.resize(images["a"], (90, 90)), "copy of b": images["b"]}
    rows = []
    for name, image in images.items():
        cv2.imwrite(str(tmp_path / f"{name}.jpg"), image)
        group = "b" if name == "copy of b" else name
        path = str(tmp_path / f"{name}.jpg")
        rows.append({"image_id": name, "path": path, "label": len(rows) % 2, "group": group})
    table = ImageTable("made", ("x", "y"), pd.DataFrame(rows))
    place = {"a": "train", "b": "train", "c": "train", "d": "val", "e": "test"}
    place |= {"copy of a": "test", "copy of b": "test"}
    parts = table.frame["image_id"].map(place)
    report = audit_split(table, parts, measure_leak(table.frame, parts), near_duplicate_bits=32, memory=None)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["groups_in_two_parts"] == 1 and report["leak_train"] == pytest.approx(1 / 3)
    assert [report["parts"][name]["images"] for name in ("train", "val", "test")] == [3, 1, 3]
    assert report["parts"]["train"]["classes"] == {"x": 2, "y": 1}
    # the copy of b shares its group and is counted there
    assert report["near_duplicates"]["test-train"] == {
        "pairs": 1,
        "images_of_test": 1,
        "first": [["copy of a", "a"]],
    }
    assert report["near_duplicates"]["val-train"]["pairs"] == 0
    assert "1 groups" in audit_sentence(report) and "1 test-train" in audit_sentence(report)
    without = audit_split(table, parts, measure_leak(table.frame, parts), near_duplicate_bits=None, memory=None)
    assert without["near_duplicates"] is None and "not looked for" in audit_sentence(without)


def test_different_lesions_of_the_embedded_dataset_are_told_apart(tmp_path: Path) -> None:
    table = load_synthetic(tmp_path, images=150, height=64, width=80, seed=0, on_bad_image="error")
    group = table.frame["group"].to_numpy(str)
    pairs = near_pairs(image_hashes(table.frame["path"].tolist(), memory=None), distance=32)
    assert (group[pairs[:, 0]] == group[pairs[:, 1]]).all()


@pytest.mark.slow
def test_ham10000_has_no_near_duplicates_under_two_lesions(real_data: Path) -> None:
    table = load_ham10000(real_data / "ham10000", on_bad_image="error")
    group = table.frame["group"].to_numpy(str)
    hashes = image_hashes(table.frame["path"].tolist(), memory=None)
    pairs = near_pairs(hashes, distance=32)
    assert len(pairs) > 10 and (group[pairs[:, 0]] == group[pairs[:, 1]]).all()
