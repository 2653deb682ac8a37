import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skinkd.data import medmnist
from skinkd.data.files import read_image
from skinkd.data.medmnist import load_medmnist
from skinkd.data.medmnist_sets import SETS
from skinkd.data.splits import make_split
from skinkd.errors import UserError

COUNTS = {"train": 30, "val": 9, "test": 12}


def arrays(size: int, classes: int, *, grey: bool) -> dict[str, Any]:
    rng = np.random.default_rng(size)
    made = {}
    for part, count in COUNTS.items():
        shape = (count, size, size) if grey else (count, size, size, 3)
        made[f"{part}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        made[f"{part}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
    return made


def write(path: Path, values: dict[str, Any], *, compressed: bool = True) -> None:
    (np.savez_compressed if compressed else np.savez)(path, **values)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    ("flag", "size", "grey"),
    [("dermamnist", 28, False), ("pathmnist", 64, False), ("breastmnist", 28, True), ("octmnist", 128, True)],
)
def test_every_pixel_label_and_part(tmp_path: Path, flag: str, size: int, grey: bool, compressed: bool) -> None:
    values = arrays(size, len(SETS[flag].classes), grey=grey)
    name = f"{flag}.npz" if size == 28 else f"{flag}_{size}.npz"
    write(tmp_path / name, values, compressed=compressed)
    table = load_medmnist(tmp_path, flag=flag, size=size, unpacked=tmp_path / "cache")
    assert table.classes == SETS[flag].classes and len(table) == sum(COUNTS.values())
    for row in table.frame.itertuples(index=False):
        part, number = row.image_id.split("_")
        image = values[f"{part}_images"][int(number)]
        expected = np.stack([image] * 3, axis=2) if grey else image
        np.testing.assert_array_equal(read_image(row.path), expected)
        assert row.label == values[f"{part}_labels"][int(number), 0]
        assert row.official_split == part and row.group == row.image_id


def test_the_official_split_is_taken_and_the_archive_unpacked_once(tmp_path: Path) -> None:
    write(tmp_path / "dermamnist.npz", arrays(28, 7, grey=False))
    settings: dict[str, Any] = {"flag": "dermamnist", "size": 28, "unpacked": tmp_path / "cache"}
    table = load_medmnist(tmp_path, **settings)
    fractions = {"train": 0.7, "val": 0.1, "test": 0.2}
    parts = make_split(table, protocol="official", fractions=fractions, seed=0, fold=None, folds=None)
    assert parts.value_counts().to_dict() == COUNTS
    assert parts.tolist() == table.frame["official_split"].tolist()
    (folder,) = (tmp_path / "cache").iterdir()
    (folder / "train_images.npy").touch()
    stamp = (folder / "test_images.npy").stat().st_mtime_ns
    assert load_medmnist(tmp_path, **settings).frame.equals(table.frame)
    assert (folder / "test_images.npy").stat().st_mtime_ns == stamp
    other = arrays(28, 7, grey=False)
    other["test_images"][0] ^= 255
    write(tmp_path / "dermamnist.npz", other)
    load_medmnist(tmp_path, **settings)
    assert len(list((tmp_path / "cache").iterdir())) == 2  # another content, another folder


def unpacked_arrays(cache: Path) -> dict[str, np.ndarray]:
    (folder,) = cache.iterdir()
    return {path.stem: np.load(path) for path in folder.glob("*.npy")}


@pytest.mark.parametrize("damage", ["flipped", "truncated", "removed", "flipped, no marker", "html"])
@pytest.mark.parametrize("name", ["train_images", "val_labels"])
def test_a_damaged_unpacked_array_is_unpacked_again(tmp_path: Path, damage: str, name: str) -> None:
    values = arrays(28, 7, grey=False)
    write(tmp_path / "dermamnist.npz", values)
    settings: dict[str, Any] = {"flag": "dermamnist", "size": 28, "unpacked": tmp_path / "cache"}
    table = load_medmnist(tmp_path, **settings)
    (folder,) = (tmp_path / "cache").iterdir()
    file = folder / f"{name}.npy"
    data, stamp = file.read_bytes(), file.stat().st_mtime_ns
    if damage.startswith("flipped"):
        file.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    elif damage == "truncated":
        file.write_bytes(data[:-1])
        os.utime(file, ns=(stamp, stamp))  # seen by its size alone
    elif damage == "html":
        file.write_text("<html>")
    else:
        file.unlink()
    if damage.endswith("no marker"):  # as an earlier version left it
        (folder / "checked.json").unlink()
    assert load_medmnist(tmp_path, **settings).frame.equals(table.frame)
    found = unpacked_arrays(tmp_path / "cache")
    assert found.keys() == values.keys()
    assert all(np.array_equal(found[one], values[one]) for one in values)
    assert not list(folder.glob(".*"))


def test_whole_unpacked_arrays_are_not_read_at_every_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "dermamnist.npz", arrays(28, 7, grey=False))
    settings: dict[str, Any] = {"flag": "dermamnist", "size": 28, "unpacked": tmp_path / "cache"}
    read: list[str] = []
    crc = medmnist.file_crc
    monkeypatch.setattr(medmnist, "file_crc", lambda path: read.append(path.name) or crc(path))
    load_medmnist(tmp_path, **settings)
    load_medmnist(tmp_path, **settings)
    assert read == []
    (folder,) = (tmp_path / "cache").iterdir()
    os.utime(folder / "test_images.npy", ns=(1, 1))
    for marker in (None, "[]", "{"):  # a changed time, then markers that say nothing
        if marker:
            (folder / "checked.json").write_text(marker)
        load_medmnist(tmp_path, **settings)
        load_medmnist(tmp_path, **settings)
    assert read[:1] == ["test_images.npy"] and len(read) == 1 + 6 + 6
    assert (folder / "test_images.npy").stat().st_mtime_ns == 1  # read, not written


def test_dermamnist_warns_of_its_leak(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for flag in ("bloodmnist", "dermamnist"):
        write(tmp_path / f"{flag}.npz", arrays(28, 7, grey=False))
        load_medmnist(tmp_path, flag=flag, size=28, unpacked=tmp_path / "cache")
    (message,) = caplog.messages
    assert "34.6 % of DermaMNIST's test images" in message and "data=ham10000 protocol=dermamnist" in message


def broken(kind: str, path: Path) -> None:
    values = arrays(28, 7, grey=False)
    if kind == "array":
        del values["val_labels"]
    elif kind == "3-D":
        values["train_images"] = np.zeros((4, 28, 28, 28), np.uint8)
    elif kind == "float":
        values["train_images"] = values["train_images"].astype(np.float32)
    elif kind == "labels":
        values["train_labels"] = np.zeros((30, 14), np.uint8)
    elif kind == "classes":
        values["train_labels"] = values["train_labels"] + 1
    write(path, values)
    data = path.read_bytes()
    if kind == "half":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "html":
        path.write_text("<html>404</html>")
    elif kind == "flipped":
        with zipfile.ZipFile(path) as file:
            at = file.getinfo("train_images.npy").header_offset + 5000
        path.write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("array", "no array val_labels"),
        ("3-D", r"2-D sets have uint8"),
        ("float", "2-D sets have uint8"),
        ("labels", "it must be one label each"),
        ("classes", "runs from 1 to 7; this set has 7 classes"),
        ("half", "is damaged"),
        ("html", "is damaged"),
        ("flipped", "is damaged"),
    ],
)
def test_a_wrong_archive_is_one_sentence_and_leaves_nothing(tmp_path: Path, kind: str, words: str) -> None:
    broken(kind, tmp_path / "dermamnist.npz")
    with pytest.raises(UserError, match=words) as error:
        load_medmnist(tmp_path, flag="dermamnist", size=28, unpacked=tmp_path / "cache")
    assert str(tmp_path / "dermamnist.npz") in str(error.value) and "\n" not in str(error.value)
    assert not list((tmp_path / "cache").glob(".*"))


@pytest.mark.parametrize(
    ("flag", "size", "words"),
    [
        ("dermamnst", 28, "did you mean 'dermamnist'"),
        ("dermamnist", 32, "use one of 28, 64, 128, 224"),
        ("chestmnist", 28, "several labels"),
        ("dermamnist", 64, r"there is no dermamnist_64\.npz .* data\.size=64"),
    ],
)
def test_wrong_settings(tmp_path: Path, flag: str, size: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_medmnist(tmp_path, flag=flag, size=size, unpacked=tmp_path / "cache")


def test_the_sets_are_complete() -> None:
    assert len(SETS) == 12
    for flag, one in SETS.items():
        assert set(one.md5) == {28, 64, 128, 224} and all(len(md5) == 32 for md5 in one.md5.values()), flag
        assert len(set(one.classes)) == len(one.classes) >= 2
