import csv
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinkd.data.files import read_image
from skinkd.data.groups import connected_groups
from skinkd.data.ham10000 import load_ham10000, load_synthetic
from skinkd.data.ham10000_folder import CLASSES, DUPLICATE_PAIRS
from skinkd.data.splits import grouped_split
from skinkd.data.table import SUBGROUPS
from skinkd.errors import UserError

Folder = Callable[..., Path]
LESIONS = {"nv": 3, "mel": 2, "vasc": 1}


def rewrite(root: Path, old: str, new: str) -> Path:
    path = root / "HAM10000_metadata.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return root


@pytest.mark.parametrize(
    ("folders", "metadata"),
    [
        (("HAM10000_images_part_1", "HAM10000_images_part_2"), "HAM10000_metadata.csv"),
        (("HAM10000_images",), "HAM10000_metadata"),
        (("images",), "HAM10000_metadata.tab"),
        (("",), "HAM10000_metadata.csv"),
    ],
)
def test_every_layout_gives_the_same_table(ham_folder: Folder, folders: tuple[str, ...], metadata: str) -> None:
    root = ham_folder(lesions=LESIONS, folders=folders, metadata=metadata)
    table = load_ham10000(root, on_bad_image="error")
    assert table.name == "ham10000" and table.classes == CLASSES
    assert table.frame["image_id"].tolist() == [f"ISIC_9{k:06d}" for k in range(12)]
    assert table.frame["label"].tolist() == [5] * 6 + [4] * 4 + [6] * 2
    assert table.frame["group"].tolist() == [f"HAM_{k // 2:07d}" for k in range(12)]
    for image_id, path in zip(table.frame["image_id"], table.frame["path"], strict=True):
        assert Path(path).stem == image_id and Path(path).is_absolute()
        assert read_image(path).shape == (30, 40, 3)


def test_columns_may_come_in_any_order_and_other_files_are_ignored(ham_folder: Folder) -> None:
    root = ham_folder(lesions=LESIONS)
    expected = load_ham10000(root, on_bad_image="error").frame
    with (root / "HAM10000_metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (root / "HAM10000_metadata.csv").open("w") as file:
        writer = csv.DictWriter(file, ["dx", "note", "image_id", "lesion_id"], extrasaction="ignore", restval="a, b")
        writer.writeheader()
        writer.writerows(rows[::-1])
    (root / "HAM10000_images_part_1" / "ISIC_1.jpg").write_bytes(b"not named in the metadata")
    (root / "HAM10000_images_part_1" / "Thumbs.db").write_bytes(b"x")
    image = root / "HAM10000_images_part_1" / "ISIC_9000000.jpg"
    image.rename(image.with_suffix(".JPG"))
    found = load_ham10000(root, on_bad_image="error").frame
    known = ["image_id", "label", "group"]
    assert found[known].equals(expected[known]) and found.columns.tolist() == ["image_id", "path", "label", "group"]


def test_subgroups_are_text_from_the_metadata_and_change_no_split(ham_folder: Folder) -> None:
    root = ham_folder(lesions=dict.fromkeys(CLASSES, 9))
    metadata = root / "HAM10000_metadata.csv"
    lines = metadata.read_text().splitlines()
    lines[1] = lines[1].replace("histo,50,male,back", "follow_up,,unknown,Unknown")
    metadata.write_text("\n".join(lines) + "\n")
    table = load_ham10000(root, on_bad_image="error")
    assert table.frame.loc[0, list(SUBGROUPS)].tolist() == ["", "", "", "follow_up"]
    assert table.frame.loc[1, list(SUBGROUPS)].tolist() == ["male", "50", "back", "histo"]

    def parts(frame: pd.DataFrame) -> list[str]:
        return grouped_split(frame, fractions={"train": 0.7, "val": 0.1, "test": 0.2}, seed=0).tolist()

    metadata.write_text("\n".join(",".join(line.split(",")[:3]) for line in lines) + "\n")
    without = load_ham10000(root, on_bad_image="error").frame
    assert not set(SUBGROUPS) & set(without.columns)
    assert parts(without) == parts(table.frame)


@pytest.mark.parametrize("kind", ["absent", "empty", "no images", "a file"])
def test_no_data_says_where_to_get_it_and_the_layout(tmp_path: Path, ham_folder: Folder, kind: str) -> None:
    root = tmp_path / "elsewhere"
    if kind == "empty":
        root.mkdir()
    elif kind == "a file":
        root.write_text("x")
    elif kind == "no images":
        root = ham_folder(lesions=LESIONS)
        for part in (1, 2):
            shutil.rmtree(root / f"HAM10000_images_part_{part}")
    with pytest.raises(UserError) as error:
        load_ham10000(root, on_bad_image="error")
    for word in (
        str(root),
        "10.7910/DVN/DBW86T",
        "HAM10000_metadata.csv",
        "_part_1",
        "SKINKD_DATA_DIR",
        "data_dir",
    ):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("lesion_id,", "lesion,", ["HAM10000_metadata.csv has no column 'lesion_id'"]),
        ("ISIC_9000001,", "ISIC_9000000,", ["1 image ids", "ISIC_9000000", "more than once"]),
        (",mel,", ",nevus,", ["dx='nevus' (4 rows)", "did you mean", "akiec, bcc, bkl, df, mel, nv, vasc"]),
        (
            "ISIC_9000003,",
            "ISIC_8000003,",
            ["1 of the 12 images", "missing (ISIC_8000003)", "on_bad_image=skip"],
        ),
        ("HAM_0000001,", ",", ["line 4", "'lesion_id' is empty"]),
    ],
)
def test_wrong_metadata_is_one_sentence(ham_folder: Folder, old: str, new: str, words: list[str]) -> None:
    root = rewrite(ham_folder(lesions=LESIONS), old, new)
    with pytest.raises(UserError) as error:
        load_ham10000(root, on_bad_image="error")
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_damaged_and_missing_images_are_named_or_left_out(ham_folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    root = ham_folder(lesions=LESIONS)
    damaged = root / "HAM10000_images_part_2" / "ISIC_9000001.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    (root / "HAM10000_images_part_1" / "ISIC_9000004.jpg").write_text("<html>")
    with pytest.raises(UserError) as error:
        load_ham10000(root, on_bad_image="error")
    assert "2 of the 12 images" in str(error.value)
    assert f"{damaged} is truncated" in str(error.value) and "ISIC_9000004.jpg is not an image" in str(error.value)

    (root / "HAM10000_images_part_1" / "ISIC_9000006.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        table = load_ham10000(root, on_bad_image="skip")
    assert table.frame["image_id"].tolist() == [f"ISIC_9{k:06d}" for k in range(12) if k not in (1, 4, 6)]
    assert table.frame.index.tolist() == list(range(9))
    assert "3 of the 12 images" in caplog.text


def test_a_pair_file_beside_the_metadata_joins_groups(ham_folder: Folder) -> None:
    root = ham_folder(lesions=LESIONS)
    (root / "duplicate_pairs.csv").write_text(
        "image_id_a,image_id_b\nISIC_9000003,ISIC_9000000\nISIC_9000010,ISIC_9000002\nISIC_9000004,unknown\n"
    )
    groups = load_ham10000(root, on_bad_image="error").frame["group"].tolist()
    # lesions 0 and 1, and 1 and 5: one group of three lesions, named by the smallest
    assert groups == [f"HAM_000000{lesion}" for lesion in (0, 0, 0, 0, 2, 2, 3, 3, 4, 4, 0, 0)]
    (root / "duplicate_pairs.csv").write_text("image_id_a,image_id_b\n")  # none is known
    assert load_ham10000(root, on_bad_image="error").frame["group"].nunique() == 6
    (root / "duplicate_pairs.csv").write_text("a,b\nx,y\n")
    with pytest.raises(UserError, match=r"duplicate_pairs\.csv has no column 'image_id_a', 'image_id_b'"):
        load_ham10000(root, on_bad_image="error")


def test_a_split_file_beside_the_metadata_becomes_a_column(ham_folder: Folder) -> None:
    root = ham_folder(lesions=LESIONS)
    rows = [f"ISIC_9{k:06d},{('train', 'VAL', 'test')[k % 3]}" for k in range(11)]
    (root / "dermamnist_split.csv").write_text("\n".join(["image_id,split", *rows, "other,train"]) + "\n")
    column = load_ham10000(root, on_bad_image="error").frame["official_split"].tolist()
    assert column == [*(("train", "val", "test") * 4)[:11], ""]
    twice = "image_id,split\nISIC_9000000,train\nISIC_9000000,val\n"
    (root / "dermamnist_split.csv").write_text(twice)
    with pytest.raises(UserError, match=r"dermamnist_split\.csv has more than one line for 1 images \(ISIC_9000000\)"):
        load_ham10000(root, on_bad_image="error")
    (root / "dermamnist_split.csv").write_text("image_id,split\nISIC_9000000,trian\n")
    with pytest.raises(UserError, match=r"dermamnist_split\.csv: 'trian' is not a part .* 'train'"):
        load_ham10000(root, on_bad_image="error")


@given(
    lesions=st.lists(st.integers(0, 9), min_size=1, max_size=14),
    pairs=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=8),
)
def test_groups_are_the_connected_components(lesions: list[int], pairs: list[tuple[int, int]]) -> None:
    names = [f"L{lesion}" for lesion in lesions]
    ids = [f"i{k}" for k in range(len(lesions))]
    found = connected_groups(ids, names, [(f"i{a}", f"i{b}") for a, b in pairs])

    # oracle: spread the smallest name along every link until nothing changes
    expected = list(names)
    changed = True
    while changed:
        changed = False
        for a in range(len(ids)):
            for b in range(len(ids)):
                linked = names[a] == names[b] or (a, b) in pairs or (b, a) in pairs
                if linked and expected[b] < expected[a]:
                    expected[a], changed = expected[b], True
    assert found == expected


def test_the_shipped_pairs_are_the_published_ones() -> None:
    assert len(DUPLICATE_PAIRS) == 18
    assert len({image for pair in DUPLICATE_PAIRS for image in pair}) == 36
    assert ("ISIC_0033481", "ISIC_0033421") in DUPLICATE_PAIRS


def test_the_synthetic_dataset_passes_through_this_loader(tmp_path: Path) -> None:
    settings = {"images": 120, "height": 32, "width": 40, "seed": 0, "on_bad_image": "error"}
    table = load_synthetic(tmp_path, **settings)
    assert table.name == "synthetic" and table.classes == CLASSES and len(table) == 120
    assert read_image(table.frame["path"][0]).shape == (32, 40, 3)
    again = load_synthetic(tmp_path, **settings)
    assert again.frame.equals(table.frame)


@pytest.mark.slow
def test_the_real_dataset(real_data: Path) -> None:
    table = load_ham10000(real_data / "ham10000", on_bad_image="error")
    counts = table.frame["label"].map(dict(enumerate(CLASSES))).value_counts().to_dict()
    assert counts == {"nv": 6705, "mel": 1113, "bkl": 1099, "bcc": 514, "akiec": 327, "vasc": 142, "df": 115}
    with (real_data / "ham10000" / "HAM10000_metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    lesions = {row["image_id"]: row["lesion_id"] for row in rows}
    assert len(set(lesions.values())) == 7470
    # no two of the 18 pairs join the same lesions, so each removes one group
    assert table.frame["group"].nunique() == 7470 - 18
    with (real_data / "ham10000" / "duplicate_pairs.csv").open() as file:
        assert {tuple(row.values()) for row in csv.DictReader(file)} == set(DUPLICATE_PAIRS)
    group = dict(zip(table.frame["image_id"], table.frame["group"], strict=True))
    assert all(group[a] == group[b] for a, b in DUPLICATE_PAIRS)
