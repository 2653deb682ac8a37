"""A user's own images as people really have them: litter, links, nested folders, and tables from all kinds of programs."""

import gzip
import logging
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from skinkd.data.class_folders import LITTER, is_litter
from skinkd.data.folder import load_folder, load_table
from skinkd.data.ham10000 import load_ham10000
from skinkd.data.isic2019 import FOLDERS
from skinkd.data.splits import make_split
from skinkd.data.table import ImageTable, read_csv
from skinkd.errors import UserError

CLASSES = ("bcc", "mel", "nv")


@pytest.fixture(scope="module")
def picture() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return cv2.imencode(".png", noise)[1].tobytes()


@pytest.fixture
def clinic(tmp_path: Path, picture: bytes) -> Path:
    """Three classes of four images."""
    for name in CLASSES:
        (tmp_path / "clinic" / name).mkdir(parents=True)
        for k in range(4):
            (tmp_path / "clinic" / name / f"{k}.png").write_bytes(picture)
    return tmp_path / "clinic"


def folder(root: Path, *, near_duplicate_bits: int | None = None) -> ImageTable:
    return load_folder(
        root, near_duplicate_bits=near_duplicate_bits, memory=root.parent / "memory", on_bad_image="error"
    )


def ids(root: Path) -> list[str]:
    return folder(root).frame["image_id"].tolist()


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints", ".Trash-1000", "$RECYCLE.BIN", "Thumbnails", "@eaDir", *sorted(LITTER)]
)
def test_folders_of_systems_are_no_classes_and_no_images_at_any_depth(clinic: Path, picture: bytes, name: str) -> None:
    expected = ids(clinic)
    for place in (clinic, clinic / "nv", clinic / "nv" / "deeper" / "still"):
        (place / name / "01.jpg").mkdir(parents=True)
        for file in (place / name / "x.png", place / name / "01.jpg" / "SYNOPHOTO_THUMB_M.jpg"):
            file.write_bytes(b"not even an image")
    assert ids(clinic) == expected and is_litter(name)
    (clinic / "nv" / "deeper" / "4.png").write_bytes(picture)  # a folder of the user's own still counts
    assert ids(clinic) == sorted([*expected, "nv/deeper/4.png"])


def test_linked_folders_are_followed_and_loops_are_counted(
    clinic: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = shutil.copytree(clinic, tmp_path / "site_b")
    for name in CLASSES:
        (clinic / name / "site_b").symlink_to(other / name)
    assert len(ids(clinic)) == 24 and not caplog.text
    (clinic / "nv" / "up").symlink_to(clinic)
    (clinic / "nv" / "above").symlink_to(tmp_path)
    (clinic / "nv" / "mel again").symlink_to(clinic / "mel")
    (other / "nv" / "loop").symlink_to(other / "nv")
    with caplog.at_level(logging.WARNING):
        assert len(ids(clinic)) == 24
    assert "(link 4)" in caplog.text and "lead back" in caplog.text


def test_classes_and_the_root_may_be_links(clinic: Path, tmp_path: Path) -> None:
    expected = ids(clinic)
    (tmp_path / "links").mkdir()
    for name in CLASSES:
        (tmp_path / "links" / name).symlink_to(clinic / name)
    (tmp_path / "root").symlink_to(clinic)
    assert ids(tmp_path / "links") == ids(tmp_path / "root") == expected


@pytest.mark.parametrize("parts", [[], ["train", "test"]])
def test_class_folders_that_lie_one_deeper_are_named(clinic: Path, tmp_path: Path, parts: list[str]) -> None:
    root = tmp_path / "unpacked"
    for part in parts or [""]:
        shutil.copytree(clinic, root / part / "images")
    with pytest.raises(UserError, match="of 1 classes") as told:
        folder(root)
    assert f"{root / sorted(parts or [''])[0] / 'images'} holds the folders bcc, mel, nv" in str(told.value)
    assert ("move these folders up" if parts else f"data.root={root / 'images'}") in str(told.value)


def test_class_folders_that_lie_two_deeper_are_named(clinic: Path, tmp_path: Path) -> None:
    shutil.copytree(clinic, tmp_path / "unpacked" / "data" / "images")
    with pytest.raises(UserError, match=f"give data.root={tmp_path / 'unpacked' / 'data' / 'images'}"):
        folder(tmp_path / "unpacked")


def test_class_folders_beside_a_folder_of_masks_are_named(
    clinic: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(clinic, tmp_path / "unpacked" / "images")
    shutil.copytree(clinic / "nv", tmp_path / "unpacked" / "masks")
    with caplog.at_level(logging.WARNING):
        assert folder(tmp_path / "unpacked").classes == ("images", "masks")
    assert (
        "holds no image itself but the folders bcc, mel, nv; if these are the classes, give data.root=" in caplog.text
    )
    caplog.clear()
    for name in CLASSES:  # a folder for each patient
        (clinic / name / "p1").mkdir()
        for image in (clinic / name).glob("*.png"):
            image.rename(clinic / name / "p1" / image.name)
    with caplog.at_level(logging.WARNING):
        assert folder(clinic).classes == CLASSES and not caplog.text


def test_folders_that_differ_in_capitals_are_asked_about(clinic: Path) -> None:
    shutil.copytree(clinic / "mel", clinic / "Mel")
    with pytest.raises(UserError, match="class folders 'Mel' and 'mel' differ in capital letters only"):
        folder(clinic)


def test_folders_in_both_unicode_forms_are_one_class_and_words_for_nothing_are_classes(clinic: Path) -> None:
    for part, form in (("train", "NFC"), ("test", "NFD")):
        for old, new in (("nv", "nævus é"), ("mel", "NA"), ("bcc", "None")):
            shutil.copytree(clinic / old, clinic.parent / "parts" / part / unicodedata.normalize(form, new))  # type: ignore[arg-type]
    table = folder(clinic.parent / "parts")
    assert table.classes == ("NA", "None", "nævus é") and len(table) == 24


@pytest.mark.parametrize(
    "layout",
    [
        "ham10000_images_part_{}",
        "HAM10000_Images_Part_{}",
        "HAM10000_images_part_{}/HAM10000_images_part_{}",
        "ham10000_images_part_{}/HAM10000_images_part_{}",
    ],
)
def test_ham10000s_parts_are_found_nested_and_in_lower_case(tmp_path: Path, picture: bytes, layout: str) -> None:
    lines = ["lesion_id,image_id,dx", *(f"HAM_{k},ISIC_{k},nv" for k in range(4))]
    (tmp_path / "ham10000_metadata.CSV").write_text("\n".join(lines))
    for k in range(4):
        place = tmp_path / layout.replace("{}", str(k % 2 + 1))
        place.mkdir(parents=True, exist_ok=True)
        (place / f"ISIC_{k}.png").write_bytes(picture)
    assert len(load_ham10000(tmp_path, on_bad_image="error")) == 4
    assert "ISIC_2019_Training_Input" in FOLDERS


Table = Callable[..., ImageTable]


@pytest.fixture
def table(clinic: Path) -> Table:
    def load(text: str | bytes, **changes: Any) -> ImageTable:
        file = clinic / "ours.csv"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        settings: dict[str, Any] = {
            **dict.fromkeys(("root", "id_column", "group_column", "split_column_name", "near_duplicate_bits")),
            **{"path_column": "path", "label_column": "label", "memory": clinic / "memory", "on_bad_image": "error"},
        }
        return load_table(file, **(settings | changes))

    return load


ROWS = [(f"{name}/{k}.png", name, f"p{k}") for name in CLASSES for k in range(4)]


def lines(rows: Any = ROWS, *, sep: str = ",", eol: str = "\n", header: str = "path,label,patient") -> str:
    return eol.join([header.replace(",", sep), *(sep.join(row) for row in rows)]) + eol


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\n" + lines(sep=";"),
        '"sep=,"\r\n' + lines(eol="\r\n"),
        "sep=\t\r" + lines(sep="\t", eol="\r"),
        "\ufeffsep=;\r\n" + lines(sep=";", eol="\r\n"),
        lines(sep="|"),
        lines([(*row[:2], f"{row[2]},,") for row in ROWS]),
    ],
    ids=["sep", "quoted-sep", "tab", "bom", "pipe", "empty-cells-at-the-end"],
)
def test_tables_as_programs_write_them(table: Table, text: str) -> None:
    assert table(text).classes == CLASSES and len(table(text)) == 12


def test_a_mistake_after_a_sep_line_has_the_line_of_the_file(table: Table) -> None:
    with pytest.raises(UserError, match="line 4 has 2 cells"):
        table("sep=;\n" + lines(sep=";").replace("bcc/1.png;bcc;p1", "bcc/1.png;bcc"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\x03\x04 rest", "a spreadsheet"),
        (b"\xd0\xcf\x11\xe0 rest", "old Excel"),
        (b"PAR1 rest PAR1", "a Parquet file"),
        (gzip.compress(lines().encode()), "compressed with gzip"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b'{"path": "a"}', "JSON"),
        (b'[{"path": "a"}]', "JSON"),
        (b"FEA1 rest", "a Feather file"),
        (b"\x80\x04\x95 rest", "a pickle"),
        (b"SQLite format 3\0", "a database"),
    ],
)
def test_what_is_no_csv_is_called_what_it_is(table: Table, data: bytes, words: str) -> None:
    with pytest.raises(UserError, match=f"ours.csv is no CSV but .*{words}"):
        table(data)


def test_a_folder_is_no_csv(clinic: Path) -> None:
    with pytest.raises(UserError, match="is a folder; give the CSV in it, or data=folder"):
        read_csv(clinic, required=["path"])


WORDS = ("NA", "N.A.", "N/A", "nan", "NaN", "None", "null", "?", "")


@pytest.mark.parametrize("word", [*sorted(WORDS), "unknown"])
def test_a_word_for_no_patient_makes_no_group_and_is_counted(
    table: Table, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [(path, label, word if label == "nv" else patient) for path, label, patient in ROWS]
    with caplog.at_level(logging.WARNING):
        groups = table(lines(rows), group_column="patient").frame["group"]
    assert groups.nunique() == 8  # four patients of the other classes, and each image of nv
    assert f"4 of 12 images have no 'patient' ({word!r})" in caplog.text


@pytest.mark.parametrize("word", [word for word in sorted(WORDS) if word])
def test_a_word_for_no_class_is_refused_unless_it_is_one(table: Table, word: str) -> None:
    text = lines([(path, word if label == "nv" else label, patient) for path, label, patient in ROWS])
    with pytest.raises(
        UserError, match=r"in 4 rows, which says that the class is not known.*data\.missing_labels=keep"
    ):
        table(text)
    assert word in table(text, missing_labels="keep").classes


def test_labels_that_differ_in_capitals_are_asked_about(table: Table) -> None:
    with pytest.raises(UserError, match="'MEL' and 'Mel' and 'mel' differ in capital letters only"):
        table(lines().replace("mel/0.png,mel", "mel/0.png,MEL").replace("mel/1.png,mel", "mel/1.png,Mel"))


@pytest.mark.parametrize("label", ["mel\u200b", "\u00admel", "\ufeffmel"])
def test_labels_that_differ_in_what_is_not_seen_are_asked_about(table: Table, label: str) -> None:
    with pytest.raises(
        UserError, match=r"differ in spaces or characters that are not seen only.*names that differ more"
    ) as told:
        table(lines().replace("mel/0.png,mel", f"mel/0.png,{label}"))
    assert str(told.value).isascii()


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_in_either_form_name_one_class_and_the_file_on_the_disk(
    table: Table, clinic: Path, form: str, picture: bytes
) -> None:
    name = unicodedata.normalize(form, "é.png")  # type: ignore[arg-type]
    (clinic / "nv" / name).write_bytes(picture)
    for written in ("NFC", "NFD"):
        label = [unicodedata.normalize(one, "nævé") for one in ("NFC", "NFD")]
        rows = [*ROWS[:8], (ROWS[8][0], label[0], "p"), (unicodedata.normalize(written, "nv/é.png"), label[1], "p")]  # type: ignore[arg-type]
        found = table(lines(rows))
        assert found.classes == ("bcc", "mel", unicodedata.normalize("NFC", "nævé")) and len(found) == 10


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.replace("/", "\\"), "backslashes of Windows"),
        (lambda path: "C:\\data\\" + path.replace("/", "\\"), "those of a Windows machine"),
        (lambda path: f"D:/data/{path}", "those of a Windows machine"),
        (lambda path: f"file:///data/{path}", "they are addresses"),
        (lambda path: path.removesuffix(".png"), "lack the files' ending"),
        (lambda path: path.upper(), "differ in capital letters"),
        (lambda path: f"elsewhere/{path.replace('/', '-')}", ""),
    ],
)
def test_the_cause_is_named_where_every_path_is_wrong(table: Table, change: Callable[[str], str], words: str) -> None:
    text = lines([(change(path), label, patient) for path, label, patient in ROWS])
    with pytest.raises(UserError, match=words or "12 of the 12 images") as told:
        table(text)
    assert not words or "none of the 12 images is there, such as" in str(told.value)


def test_paths_from_the_current_folder_are_named(
    table: Table, clinic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = lines([(f"clinic/{path}", label, patient) for path, label, patient in ROWS])
    with pytest.raises(UserError, match=f"set data.root={tmp_path}"):
        table(text)
    assert len(table(text, root=tmp_path)) == 12


def test_one_missing_file_is_still_named_itself(table: Table) -> None:
    with pytest.raises(UserError, match=r"1 of the 12 images .*nv/9\.png is missing"):
        table(lines().replace("nv/3.png", "nv/9.png"))


def test_where_near_duplicates_leave_too_few_groups_the_setting_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "flat" / name).mkdir(parents=True)
        for number in range(8):  # images of one colour, whose hashes are all alike
            flat = np.full((64, 64, 3), (30 * number, 100, 9), np.uint8)
            (tmp_path / "flat" / name / f"{number}.png").write_bytes(cv2.imencode(".png", flat)[1].tobytes())
    split = {"fractions": {"train": 0.5, "val": 0.25, "test": 0.25}, "seed": 0, "fold": None, "folds": None}
    table = folder(tmp_path / "flat", near_duplicate_bits=6)
    with pytest.raises(UserError, match=r"its 8 images are 1 groups, because .*data\.near_duplicate_bits=6.* or null"):
        make_split(table, protocol="grouped", **split)
    alone = folder(tmp_path / "flat", near_duplicate_bits=None)
    assert set(make_split(alone, protocol="grouped", **split)) == {"train", "val", "test"}
