import logging
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinkd.data.dermnet import load_dermnet
from skinkd.data.folder import load_folder, load_table
from skinkd.data.splits import PARTS, make_split, measure_leak
from skinkd.data.table import ImageTable
from skinkd.errors import UserError
from tests.data.test_files import huge_png

FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


def picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return cv2.resize(small, (96, 72), interpolation=cv2.INTER_CUBIC)


def put(path: Path, seed: int, *, shrink: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = picture(seed)
    assert cv2.imwrite(str(path), cv2.resize(image, (60, 45)) if shrink else image)


def folder(root: Path, **changes: Any) -> ImageTable:
    settings = {"near_duplicate_bits": 32, "memory": root.parent / "memory", "on_bad_image": "error"}
    return load_folder(root, **(settings | changes))


def test_class_folders_with_copies_in_one_group(tmp_path: Path) -> None:
    root = tmp_path / "own data"
    for k in range(4):
        put(root / "nævus" / f"{k}.jpg", k)
        put(root / "melanoma" / "deeper" / f"{k}.PNG", 10 + k)
    put(root / "nævus" / "copy of 2.jpg", 2, shrink=True)
    (root / "nævus" / "notes.txt").write_text("x")
    (root / "nævus" / "._0.jpg").write_bytes(b"a Mac's")
    (root / ".hidden").mkdir()
    table = folder(root)
    assert table.classes == ("melanoma", "nævus") and table.name == "own data" and len(table) == 9
    assert "official_split" not in table.frame
    group = dict(zip(table.frame["image_id"], table.frame["group"], strict=True))
    assert group["nævus/copy of 2.jpg"] == group["nævus/2.jpg"] and len(set(group.values())) == 8
    assert "melanoma/deeper/3.PNG" in group
    assert folder(root, near_duplicate_bits=None).frame["group"].nunique() == 9


def test_part_folders_give_the_official_split(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number, part in enumerate(("Train", "valid", "test")):
        for k in range(3):
            put(root / part / "a" / f"{k}.jpg", 100 * number + k)
            put(root / part / "b" / f"{k}.jpg", 100 * number + 10 + k)
    table = folder(root)
    parts = make_split(table, protocol="official", fractions=FRACTIONS, seed=0, fold=None, folds=None)
    expected = {"Train": "train", "valid": "val", "test": "test"}
    assert parts.tolist() == [expected[name.split("/")[0]] for name in table.frame["image_id"]]
    with pytest.raises(UserError, match=r"protocol=dermamnist is no split of the dataset data; .*official"):
        make_split(table, protocol="dermamnist", fractions=FRACTIONS, seed=0, fold=None, folds=None)


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ([], "there is no folder"),
        (["a/0.jpg"], "images .* of 1 classes"),
        (["0.jpg"], "of 0 classes"),
        (["train/a/0.jpg", "train/b/0.jpg", "other/a/0.jpg"], r"has both the parts train and other folders \(other\)"),
    ],
)
def test_wrong_folders(tmp_path: Path, paths: list[str], words: str) -> None:
    for k, path in enumerate(paths):
        put(tmp_path / "data" / path, k)
    with pytest.raises(UserError, match=words):
        folder(tmp_path / "data")


def test_every_ending_that_a_table_takes(tmp_path: Path) -> None:
    for k, ending in enumerate(("jpg", "JPEG", "png", "bmp", "tif", "TIFF", "webp")):
        put(tmp_path / "data" / "ab"[k % 2] / f"{k}.{ending}", k)
    assert len(folder(tmp_path / "data")) == 7


@pytest.mark.parametrize("part", ["", "train"])
def test_a_class_folder_without_an_image_does_not_vanish(tmp_path: Path, part: str) -> None:
    root = tmp_path / "data"
    put(root / part / "a" / "0.jpg", 0)
    put(root / part / "b" / "0.jpg", 1)
    (root / part / "c" / "deeper").mkdir(parents=True)
    for choice in ("error", "skip", "keep"):
        with pytest.raises(UserError, match=r"1 class folders hold no image .*/c; put images there"):
            folder(root, on_bad_image=choice)
    (root / part / "c" / "deeper" / "1.heic").touch()
    with pytest.raises(UserError, match=r"c \(\.heic 1\); put"):
        folder(root)


def test_files_that_are_not_used_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "data"
    for name in ("a/0.jpg", "b/0.jpg"):
        put(root / name, len(name) + ord(name[0]))
    for name in ("a/Thumbs.db", "a/notes.txt", "b/.hidden.gif", "README", "labels.csv", "__MACOSX/x.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    with caplog.at_level(logging.WARNING):
        assert folder(root).classes == ("a", "b")
    assert not caplog.records
    for name in ("a/1.GIF", "a/2.gif", "b/3", "loose.jpg"):
        (root / name).touch()
    with caplog.at_level(logging.WARNING):
        assert len(folder(root)) == 2
    (record,) = caplog.records
    assert f"4 files under {root} are not used" in record.message
    assert record.message.endswith("(.gif 2, .jpg 1, no ending 1)")


@pytest.mark.parametrize("name", ["data", "b", "deeper"])
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    put(tmp_path / "data" / "a" / "0.jpg", 0)
    put(tmp_path / "data" / "b" / "deeper" / "0.jpg", 1)

    def refuse(real: Any) -> Any:
        def call(path: Any) -> Any:
            if Path(path).name == name:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        return call

    monkeypatch.setattr(os, "scandir", refuse(os.scandir))  # root may read everything, so no mode would do
    monkeypatch.setattr(os, "listdir", refuse(os.listdir))
    with pytest.raises(UserError, match=f"/{name} cannot be read \\(Permission denied"):
        folder(tmp_path / "data")


@pytest.mark.parametrize("place", [b"a/M\xfcller.jpg", b"M\xfcller/0.jpg"])
def test_a_name_that_is_not_utf_8_is_named(tmp_path: Path, place: bytes) -> None:
    put(tmp_path / "data" / "a" / "0.jpg", 0)
    put(tmp_path / "data" / "b" / "0.jpg", 1)
    odd = os.path.join(os.fsencode(tmp_path / "data"), place)
    os.makedirs(os.path.dirname(odd), exist_ok=True)
    shutil.copy(os.fsencode(tmp_path / "data" / "a" / "0.jpg"), odd)
    with pytest.raises(UserError, match=r"M\\xfcller.* is not UTF-8; rename it"):
        folder(tmp_path / "data")


def test_what_only_decoding_shows_to_be_bad_is_left_out_or_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKINKD_MAX_PIXELS", str(60000**2))
    root = tmp_path / "data"
    for k in range(4):
        put(root / "ab"[k % 2] / f"{k}.png", k)
    (root / "a" / "huge.png").write_bytes(huge_png())
    (root / "a" / "rubbish.jpg").write_bytes(b"\xff\xd8" + b"rubbish" * 900 + b"\xff\xd9")
    assert cv2.imwrite(str(root / "a" / "black.png"), np.zeros((30, 30, 3), np.uint8))  # its hash is 0 as well
    with caplog.at_level(logging.WARNING):
        table = folder(root, on_bad_image="skip")
    assert table.frame["image_id"].tolist() == ["a/0.png", "a/2.png", "a/black.png", "b/1.png", "b/3.png"]
    assert "huge.png cannot be decoded" in caplog.text and "rubbish.jpg is not an image" in caplog.text
    (root / "a" / "rubbish.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of the 6 images .*huge\.png cannot be decoded; replace"):
        folder(root)
    assert len(folder(root, on_bad_image="keep")) == 6

    rows = [f"{path.relative_to(root)},{path.parent.name},1" for path in sorted(root.rglob("*.png"))]
    (root / "ours.csv").write_text("\n".join(["path,label,2", *rows]))
    for column in (None, "2", 2):
        assert len(table_of(root / "ours.csv", group_column=column, on_bad_image="skip")) == 5
        assert len(table_of(root / "ours.csv", group_column=column, on_bad_image="keep")) == 6
        with pytest.raises(UserError, match=r"1 of the 6 images .*huge\.png cannot be decoded; replace"):
            table_of(root / "ours.csv", group_column=column)


def dermnet(root: Path, *, drop: bool = False, bits: int | None = 32) -> ImageTable:
    return load_dermnet(
        root,
        near_duplicate_bits=bits,
        drop_train_test_duplicates=drop,
        memory=root.parent / "memory",
        on_bad_image="error",
    )


@pytest.fixture
def dermnet_folder(tmp_path: Path) -> Path:
    root = tmp_path / "dermnet"
    for label, name in enumerate(("Acne and Rosacea Photos", "Eczema Photos")):
        for k in range(20):
            put(root / "train" / name / f"{k}.jpg", 100 * label + k)
        for k in range(6):
            put(root / "test" / name / f"{k}.jpg", 1000 + 100 * label + k)
    put(root / "test" / "Eczema Photos" / "07.jpg", 103, shrink=True)  # of train
    put(root / "test" / "Eczema Photos" / "08.jpg", 104)
    put(root / "train" / "Eczema Photos" / "again.jpg", 104, shrink=True)
    return root


def test_dermnet_overlap_is_measured_and_removable(dermnet_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        table = dermnet(dermnet_folder)
    assert "2 of the 14 test images of DermNet (14.3 %)" in caplog.text and "3 training images" in caplog.text
    assert "has 2 classes; the DermNet of the literature has 23" in caplog.text
    parts = make_split(table, protocol="official", fractions=FRACTIONS, seed=0, fold=None, folds=None)
    assert measure_leak(table.frame, parts).shared_groups == 2
    in_test = table.frame["image_id"].str.startswith("test/")
    assert (parts[in_test] == "test").all() and set(parts[~in_test]) == {"train", "val"}
    assert (parts == "val").sum() == pytest.approx(41 / 8, abs=2)  # 0.1 of 0.8
    # within train, copies stay together
    assert table.frame[~in_test].assign(part=parts).groupby("group")["part"].nunique().max() == 1

    clean = dermnet(dermnet_folder, drop=True)
    assert len(clean) == len(table) - 3
    assert clean.frame["image_id"].str.startswith("test/").sum() == 14
    parts = make_split(clean, protocol="official", fractions=FRACTIONS, seed=0, fold=None, folds=None)
    assert measure_leak(clean.frame, parts).shared_groups == 0


def test_dermnet_always_speaks_of_its_overlap(dermnet_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dermnet(dermnet_folder, bits=None)
    assert "is not measured, as data.near_duplicate_bits is null" in caplog.text
    for name in ("07.jpg", "08.jpg"):
        (dermnet_folder / "test" / "Eczema Photos" / name).unlink()
    with caplog.at_level(logging.WARNING):
        dermnet(dermnet_folder)
    assert "0 of the 12 test images of DermNet have a near-duplicate in train" in caplog.text


def test_wrong_dermnet(dermnet_folder: Path) -> None:
    with pytest.raises(UserError, match=r"needs data\.near_duplicate_bits"):
        dermnet(dermnet_folder, drop=True, bits=None)
    shutil.rmtree(dermnet_folder / "test")
    with pytest.raises(UserError, match="no test folder"):
        dermnet(dermnet_folder)


def table_of(file: Path, **changes: Any) -> ImageTable:
    settings: dict[str, Any] = {
        "root": None,
        "path_column": "path",
        "label_column": "label",
        "id_column": None,
        "group_column": None,
        "split_column_name": None,
        "near_duplicate_bits": 32,
        "memory": file.parent / "memory",
        "on_bad_image": "error",
    }
    return load_table(file, **(settings | changes))


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    names = [f"images/{k}.jpg" for k in range(6)]
    for k, name in enumerate(names):
        put(tmp_path / name, min(k, 4))  # the last is a copy of the one before
    lines = [
        f"{name};{'mel' if k % 2 else 'nv'};{'p1' if k < 2 else ''};{('Train', 'Validation', 'TEST')[k % 3]}"
        for k, name in enumerate(names)
    ]
    file = tmp_path / "ours.csv"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["path;label;patient;fold", *lines]).encode())
    return file


def test_a_table_of_ones_own(csv_file: Path) -> None:
    table = table_of(csv_file)
    assert table.name == "ours" and table.classes == ("mel", "nv")
    groups = table.frame["group"].tolist()
    assert groups[4] == groups[5] and len(set(groups)) == 5  # near-duplicates, since no group is known
    table = table_of(csv_file, group_column="patient", split_column_name="fold")
    groups = table.frame["group"].tolist()
    assert groups[:2] == ["p1", "p1"] and len(set(groups)) == 5
    assert table.frame["official_split"].tolist() == list(PARTS) * 2
    moved = csv_file.parent / "elsewhere" / "ours.csv"
    moved.parent.mkdir()
    shutil.copy(csv_file, moved)
    assert len(table_of(moved, root=csv_file.parent)) == 6
    with pytest.raises(UserError, match="6 of the 6 images"):
        table_of(moved)


@pytest.mark.parametrize(
    ("old", "new", "changes", "words"),
    [
        ("path;", "file;", {}, "has no column 'path'"),
        ("images/1.jpg", "images/0.jpg", {}, "1 image ids .* more than once"),
        ("TEST", "holdout", {"split_column_name": "fold"}, "'holdout' is not a part of a split"),
        ("x", "x", {"group_column": "lesion"}, "has no column 'lesion'"),
        ("mel", "nv", {}, "has only the class 'nv'"),
        ("images/1.jpg", "images/9.jpg", {}, r"images/9\.jpg is missing"),
    ],
)
def test_wrong_tables(csv_file: Path, old: str, new: str, changes: dict[str, Any], words: str) -> None:
    csv_file.write_bytes(csv_file.read_bytes().replace(old.encode(), new.encode()))
    with pytest.raises(UserError, match=words):
        table_of(csv_file, **changes)


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


@given(text=st.lists(st.lists(CELL, min_size=1, max_size=3), max_size=5), newline=st.sampled_from("\r\n"))
def test_fuzzed_tables_give_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, text: list[list[str]], newline: str
) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "t.csv"
    file.write_bytes(newline.join(["path,label", *(",".join(row) for row in text)]).encode())
    with pytest.raises(UserError) as error:  # no image is there, so no table can be right
        table_of(file)
    assert str(error.value)
