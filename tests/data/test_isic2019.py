import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinkd.data.isic2019 import CLASSES, GROUND_TRUTH, METADATA, load_isic2019, read_tables
from skinkd.data.splits import image_level_split, make_split, measure_leak
from skinkd.data.table import ImageTable
from skinkd.errors import UserError

HEADER = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
ORDER = HEADER.split(",")[1:]
# id in the ground truth, class, lesion
ROWS = [
    ("ISIC_0000000", "NV", ""),
    ("ISIC_0000002_downsampled", "MEL", ""),
    ("ISIC_0000003", "SCC", "BCN_1"),
    ("ISIC_0000004_downsampled", "SCC", "BCN_1"),
    ("ISIC_0033481", "AK", "HAM_0000001"),
    ("ISIC_0033421", "AK", "HAM_0000002"),
    ("ISIC_0000009", "UNK", "BCN_2"),
]


def test_subgroups_follow_their_image_into_the_order_of_the_ground_truth(tmp_path: Path) -> None:
    root = write_tables(tmp_path)
    lines = (root / METADATA).read_text().replace("ISIC_0000003,50.0,,", "ISIC_0000003,65.0,lower extremity,")
    (root / METADATA).write_text(lines.replace("BCN_1,male", "BCN_1,female", 1))
    frame = read_tables(root).set_index("image_id")
    assert frame.loc["ISIC_0000003", ["age", "body_site"]].tolist() == ["65.0", "lower extremity"]
    assert frame.loc["ISIC_0000002", ["sex", "age", "body_site"]].tolist() == ["male", "50.0", ""]
    assert frame["sex"].tolist().count("female") == 1 and "confirmation" not in frame


def truth_line(image: str, name: str) -> str:
    return ",".join([image, *("1.0" if name == one else "0.0" for one in ORDER)])


def write_tables(root: Path, rows: list[tuple[str, str, str]] = ROWS) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / GROUND_TRUTH).write_text("\n".join([HEADER, *(truth_line(i, name) for i, name, _ in rows)]) + "\n")
    # the other table in another order, and without the suffix
    lines = [f"{i.removesuffix('_downsampled')},50.0,,{lesion},male" for i, _, lesion in rows[::-1]]
    header = "image,age_approx,anatom_site_general,lesion_id,sex"
    (root / METADATA).write_text("\n".join([header, *lines]) + "\n")
    return root


def write_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(names))
    for name in names:
        cv2.imwrite(str(folder / f"{name}.jpg"), rng.integers(0, 256, (20, 24, 3), dtype=np.uint8))


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., ImageTable]:
    def call(**changes: object) -> ImageTable:
        settings = {
            "ham10000_root": tmp_path / "ham10000",
            "only_available": False,
            "on_bad_image": "error",
        }
        return load_isic2019(tmp_path / "isic", **(settings | changes))  # type: ignore[arg-type]

    return call


@pytest.mark.parametrize("folder", ["ISIC_2019_Training_Input", "images", "."])
def test_ids_groups_and_labels(
    tmp_path: Path, load: Callable[..., ImageTable], folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_tables(tmp_path / "isic")
    # a suffix in the table or in the file's name, in one but not in the other
    write_images(root / folder, ["ISIC_0000000_downsampled", "ISIC_0000002", "ISIC_0000003"])
    write_images(root / folder, ["ISIC_0000004_downsampled"])
    write_images(tmp_path / "ham10000" / "HAM10000_images_part_1", ["ISIC_0033481", "ISIC_0033421"])
    with caplog.at_level(logging.WARNING):
        table = load()
    assert "1 images of ISIC 2019 are labelled UNK" in caplog.text
    assert table.classes == ("AK", "MEL", "NV", "SCC")  # those that occur
    got = {row.image_id: (table.classes[row.label], row.group) for row in table.frame.itertuples(index=False)}
    assert got == {
        "ISIC_0000000": ("NV", "image:ISIC_0000000"),
        "ISIC_0000002": ("MEL", "image:ISIC_0000002"),
        "ISIC_0000003": ("SCC", "BCN_1"),
        "ISIC_0000004": ("SCC", "BCN_1"),
        # one of the published pairs: two lesion ids, one lesion
        "ISIC_0033421": ("AK", "HAM_0000001"),
        "ISIC_0033481": ("AK", "HAM_0000001"),
    }


def test_missing_images_are_an_error_or_left_out_and_counted(
    tmp_path: Path, load: Callable[..., ImageTable], caplog: pytest.LogCaptureFixture
) -> None:
    root = write_tables(tmp_path / "isic")
    with pytest.raises(UserError, match="tables but no images"):
        load()
    write_images(root / "ISIC_2019_Training_Input", ["ISIC_0000003", "ISIC_0000000"])
    with pytest.raises(UserError, match=r"4 of the 6 images .*data\.only_available=true"):
        load()
    with caplog.at_level(logging.WARNING):
        assert len(load(only_available=True)) == 2
    assert "uses 2 of the 6 images" in caplog.text
    assert len(load(on_bad_image="keep")) == 6


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        (GROUND_TRUTH, truth_line("ISIC_0000000", "NV"), truth_line("ISIC_0000000", ""), "exactly one of"),
        (GROUND_TRUTH, "ISIC_0000000,0.0,1.0", "ISIC_0000000,1.0,1.0", "exactly one of"),
        (GROUND_TRUTH, "ISIC_0000000,0.0,1.0", "ISIC_0000000,no,1.0", "must hold 0 or 1"),
        (GROUND_TRUTH, "ISIC_0000003", "ISIC_0000004", "have more than one row"),
        (GROUND_TRUTH, "ISIC_0000003", "ISIC_0000099", "lacks 1 images"),
        (GROUND_TRUTH, "SCC", "SCCX", "has no column 'SCC'"),
        (METADATA, "lesion_id", "lesion", "has no column 'lesion_id'"),
        (METADATA, "ISIC_0000003", "ISIC_0000004_downsampled", "have more than one row"),
    ],
)
def test_wrong_tables_are_one_sentence(tmp_path: Path, name: str, old: str, new: str, words: str) -> None:
    root = write_tables(tmp_path)
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=words) as error:
        read_tables(root)
    assert name in str(error.value) and "\n" not in str(error.value)


@given(
    lesions=st.lists(st.sampled_from(["", "A", "B", "C"]), min_size=1, max_size=12),
    newline=st.sampled_from(["\n", "\r\n"]),
    mark=st.booleans(),
    quoted=st.booleans(),
)
def test_any_encoding_of_the_tables_gives_the_same_groups(
    tmp_path_factory: pytest.TempPathFactory, lesions: list[str], newline: str, mark: bool, quoted: bool
) -> None:
    root = write_tables(tmp_path_factory.mktemp("isic"), [(f"ISIC_{k}", "NV", one) for k, one in enumerate(lesions)])
    for name in (GROUND_TRUTH, METADATA):
        lines = (root / name).read_text().splitlines()
        if quoted:
            lines = [",".join(f'"{cell}"' for cell in line.split(",")) for line in lines]
        (root / name).write_bytes((b"\xef\xbb\xbf" if mark else b"") + newline.join(lines).encode())
    frame = read_tables(root)
    assert frame["group"].tolist() == [one or f"image:ISIC_{k}" for k, one in enumerate(lesions)]


def test_more_rows_than_the_dataset_has_are_read(tmp_path: Path) -> None:
    root = write_tables(tmp_path, [(f"made_{k:07d}", CLASSES[k % 8], f"L{k // 3}") for k in range(30_000)])
    frame = read_tables(root)
    assert len(frame) == 30_000 and frame["group"].nunique() == 10_000


def real_tables(real_data: Path) -> ImageTable:
    if not (real_data / "isic2019" / GROUND_TRUTH).is_file():
        pytest.skip(f"no isic2019 tables in {real_data}")
    return ImageTable("isic2019", CLASSES, read_tables(real_data / "isic2019").assign(path="x"))


@pytest.mark.slow
def test_the_real_tables_and_their_leak(real_data: Path) -> None:
    table = real_tables(real_data)
    frame = table.frame
    counts = frame["label"].map(dict(enumerate(CLASSES))).value_counts().to_dict()
    assert counts == {
        **{"NV": 12875, "MEL": 4522, "BCC": 3323, "BKL": 2624},
        **{"AK": 867, "SCC": 628, "VASC": 253, "DF": 239},
    }
    assert frame["group"].str.startswith("image:").sum() == 2084
    parts = image_level_split(frame, fractions={"train": 0.8, "test": 0.2}, seed=0)
    assert measure_leak(frame, parts).in_train == pytest.approx(0.603, abs=0.02)
    uniform = pd.Series(np.where(np.random.default_rng(0).random(len(frame)) < 0.2, "test", "train"))
    assert measure_leak(frame, uniform).in_train == pytest.approx(0.603, abs=0.02)
    settings = {"fractions": {"train": 0.7, "val": 0.1, "test": 0.2}, "seed": 0, "fold": None, "folds": None}
    grouped = make_split(table, protocol="grouped", **settings)  # type: ignore[arg-type]
    assert measure_leak(frame, grouped).shared_groups == 0


@pytest.mark.slow
def test_the_real_images_of_ham10000_are_a_part_of_it(real_data: Path, tmp_path: Path) -> None:
    real_tables(real_data)
    for name in (GROUND_TRUTH, METADATA):
        shutil.copy(real_data / "isic2019" / name, tmp_path)
    table = load_isic2019(tmp_path, ham10000_root=real_data / "ham10000", only_available=True, on_bad_image="error")
    counts = table.frame["label"].map(dict(enumerate(table.classes))).value_counts()
    assert len(table) == 10015 and counts["AK"] == 130 and counts["SCC"] == 197
    assert table.frame["group"].nunique() == 7470 - 18
