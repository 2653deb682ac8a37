import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import train_process

from skinkd.data import arrays, cache
from skinkd.data.cache import cached, is_whole, prepare
from skinkd.data.dataset import SkinDataset
from skinkd.data.files import read_image
from skinkd.data.ham10000 import load_ham10000
from skinkd.data.table import ImageTable
from skinkd.data.transforms import eval_pipeline
from skinkd.errors import UserError

LESIONS = {"nv": 8, "mel": 6, "vasc": 4}


@pytest.fixture
def table(ham_folder: Callable[..., Path]) -> ImageTable:
    return load_ham10000(ham_folder(lesions=LESIONS, size=(45, 60)), on_bad_image="error")


def images(table: ImageTable, size: int) -> list[np.ndarray]:
    dataset = SkinDataset(table.frame, pipeline=eval_pipeline(image_size=size), views=None, seed=0)
    return [sample.image.numpy() for sample in dataset]


@pytest.mark.parametrize("mode", ["disk", "ram"])
def test_evaluation_sees_the_same_bytes(table: ImageTable, tmp_path: Path, mode: str) -> None:
    used = cached(table, mode=mode, size=24, image_size=24, folder=tmp_path / "cache")
    assert used.frame.drop(columns="path").equals(table.frame.drop(columns="path"))
    assert min(read_image(used.frame["path"][0]).shape[:2]) == 24
    for own, plain in zip(images(used, 24), images(table, 24), strict=True):
        np.testing.assert_array_equal(own, plain)


def test_without_a_size_every_pixel_is_kept(table: ImageTable, tmp_path: Path) -> None:
    used = cached(table, mode="disk", size=None, image_size=24, folder=tmp_path / "cache")
    large = cached(table, mode="disk", size=400, image_size=24, folder=tmp_path / "cache")  # never enlarged
    for paths in zip(used.frame["path"], large.frame["path"], table.frame["path"], strict=True):
        first, second, plain = map(read_image, paths)
        np.testing.assert_array_equal(first, plain)
        np.testing.assert_array_equal(second, plain)
    assert cached(table, mode="off", size=None, image_size=24, folder=tmp_path / "none") is table
    assert not (tmp_path / "none").exists()


def test_the_key_is_content_and_settings(table: ImageTable, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    first = prepare(table, size=24, folder=folder)
    stamp = (first / "pixels.bin").stat().st_mtime_ns
    assert prepare(table, size=24, folder=folder) == first
    assert prepare(table, size=20, folder=folder) != first
    moved = table.frame["path"].map(lambda path: str(Path(path).rename(tmp_path / Path(path).name)))
    elsewhere = ImageTable(table.name, table.classes, table.frame.assign(path=moved))
    assert prepare(elsewhere, size=24, folder=folder) == first
    assert (first / "pixels.bin").stat().st_mtime_ns == stamp
    Path(moved[0]).write_bytes(Path(moved[1]).read_bytes())
    changed = prepare(elsewhere, size=24, folder=folder)
    assert changed != first
    used = cached(elsewhere, mode="disk", size=24, image_size=24, folder=folder)
    np.testing.assert_array_equal(images(used, 24)[0], images(elsewhere, 24)[0])


@pytest.mark.parametrize("damage", ["cut", "flipped", "no index", "bad index", "other index"])
def test_a_damaged_cache_is_made_again(table: ImageTable, tmp_path: Path, damage: str) -> None:
    cache = prepare(table, size=24, folder=tmp_path)
    good = (cache / "pixels.bin").read_bytes()
    assert is_whole(cache, len(table)) and not is_whole(cache, len(table) + 1)
    if damage == "cut":
        (cache / "pixels.bin").write_bytes(good[:-1])
    elif damage == "flipped":
        (cache / "pixels.bin").write_bytes(good[:77] + bytes([good[77] ^ 1]) + good[78:])
    elif damage == "no index":
        (cache / "index.json").unlink()
    else:
        (cache / "index.json").write_text("{" if damage == "bad index" else "[]")
    assert not is_whole(cache, len(table))
    assert prepare(table, size=24, folder=tmp_path) == cache
    assert (cache / "pixels.bin").read_bytes() == good


def test_wrong_settings_and_images(table: ImageTable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.cache_size=20 .* at least 24"):
        cached(table, mode="disk", size=20, image_size=24, folder=tmp_path)
    with pytest.raises(UserError, match=r"data\.cache=dsk"):
        cached(table, mode="dsk", size=24, image_size=24, folder=tmp_path)
    Path(table.frame["path"][3]).write_text("no image")
    with pytest.raises(UserError, match="is not an image"):
        prepare(table, size=24, folder=tmp_path)
    assert not [one for one in tmp_path.iterdir() if "images-" in one.name and one.is_dir()]


def build(table: ImageTable, folder: Path) -> None:
    assert is_whole(prepare(table, size=24, folder=folder), len(table))


def test_two_jobs_build_one_cache(table: ImageTable, tmp_path: Path) -> None:
    jobs = [train_process.fork(build, table, tmp_path / "cache") for _ in range(2)]
    for job in jobs:
        job.join(60)
        assert job.exitcode == 0
    (found,) = (tmp_path / "cache").glob("images-*")
    assert is_whole(found, len(table))


def build_slowly(table: ImageTable, folder: Path) -> None:
    read = cache.read_image

    def slow(path: str) -> np.ndarray:
        time.sleep(0.05)
        return read(path)

    cache.read_image = slow
    prepare(table, size=24, folder=folder)


def test_a_killed_build_leaves_nothing_that_is_taken_for_a_cache(table: ImageTable, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    job = train_process.fork(build_slowly, table, folder)
    until = time.monotonic() + 60
    while not list(folder.glob(".images-*.building/pixels.bin")) and time.monotonic() < until:
        time.sleep(0.01)
    job.kill()
    job.join()
    assert job.exitcode == -signal.SIGKILL
    assert not list(folder.glob("images-*"))
    assert is_whole(prepare(table, size=24, folder=folder), len(table))
    assert not list(folder.glob(".images-*.building"))


def test_array_paths() -> None:
    assert arrays.split_path("/a/b.npy#5,2,3,1") == ("/a/b.npy", (5, 2, 3, 1))
    for path in ("/a/b#1.jpg", "/a/b.jpg", "/a/#1,2,3", "#1,2,3,-4", ""):
        assert arrays.split_path(path) is None


def test_a_missing_or_short_array_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be opened"):
        read_image(arrays.image_path(tmp_path / "absent.npy", 0, 2, 2, 3))
    (tmp_path / "short.bin").write_bytes(bytes(11))
    with pytest.raises(UserError, match="is truncated"):
        read_image(arrays.image_path(tmp_path / "short.bin", 0, 2, 2, 3))
