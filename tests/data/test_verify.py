import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from skinkd.data import ham10000, isic2019
from skinkd.data.arrays import image_path
from skinkd.data.folder import load_folder, load_table
from skinkd.data.ham10000 import load_ham10000
from skinkd.data.sheets import augment_sheet, class_table, contact_sheet, page, png, table_picture
from skinkd.data.splits import make_split
from skinkd.data.table import ImageTable
from skinkd.data.transforms import eval_pipeline
from skinkd.data.verify import Verdict, published_problems, verify

Folder = Callable[..., Path]
LESIONS = {"nv": 4, "mel": 3, "vasc": 3}
PART_1, PART_2 = "HAM10000_images_part_1", "HAM10000_images_part_2"


def check(root: Path) -> Verdict:
    return verify(load_ham10000(root, on_bad_image="keep"), source=ham10000.SOURCE)


def test_a_whole_dataset_has_no_problem(ham_folder: Folder) -> None:
    verdict = check(ham_folder(lesions=LESIONS))
    assert verdict.problems == []
    assert verdict.facts[0] == "20 images, 7 classes, 10 groups" and "nv 8" in verdict.facts[1]
    assert verdict.facts[2] == "sizes: 40x30 (20)"


def spoil(root: Path) -> None:
    """Truncate one file, remove one, replace one by text, change the label of one of two photographs."""
    path = root / PART_1 / "ISIC_9000000.jpg"
    path.write_bytes(path.read_bytes()[:-50])
    (root / PART_2 / "ISIC_9000003.jpg").unlink()
    (root / PART_1 / "ISIC_9000004.jpg").write_text("<html>not found</html>")
    metadata = root / "HAM10000_metadata.csv"
    text = metadata.read_text()
    assert "ISIC_9000009,mel," in text
    metadata.write_text(text.replace("ISIC_9000009,mel,", "ISIC_9000009,vasc,"))


def test_four_faults_are_four_problems_each_named(ham_folder: Folder) -> None:
    root = ham_folder(lesions=LESIONS)
    spoil(root)
    assert check(root).problems == [
        f"{root / PART_1 / 'ISIC_9000000.jpg'} is truncated",
        "ISIC_9000003 is missing",
        f"{root / PART_1 / 'ISIC_9000004.jpg'} is not an image",
        "group HAM_0000004 has different labels: ISIC_9000008 (mel), ISIC_9000009 (vasc)",
    ]


def test_a_wrong_label_is_one_problem_even_if_a_copy_and_its_lesion_contradict_it(ham_folder: Folder) -> None:
    root = ham_folder(lesions={"mel": 2, "nv": 1}, per_lesion=4)
    names = [root / (PART_2 if k % 2 else PART_1) / f"ISIC_90{k:05d}.jpg" for k in range(4)]
    shutil.copy(names[0], names[1])
    metadata = root / "HAM10000_metadata.csv"
    metadata.write_text(metadata.read_text().replace("ISIC_9000001,mel,", "ISIC_9000001,vasc,"))
    said = "the same file with different labels: ISIC_9000000 (mel), ISIC_9000001 (vasc)"
    assert check(root).problems == [said]
    metadata.write_text(metadata.read_text().replace("ISIC_9000003,mel,", "ISIC_9000003,df,"))
    (first, second) = check(root).problems
    assert first == said and second.startswith("group HAM_0000000 has different labels")


def test_copies_of_a_file(ham_folder: Folder) -> None:
    root = ham_folder(lesions=LESIONS)
    copies = [(0, 2), (8, 14), (16, 17)]  # another lesion, another class, the same lesion
    for first, second in copies:
        names = [root / (PART_2 if k % 2 else PART_1) / f"ISIC_90{k:05d}.jpg" for k in (first, second)]
        shutil.copy(names[0], names[1])
    verdict = check(root)
    assert len(verdict.problems) == 2
    assert verdict.facts[3] == (
        "3 images are byte-identical copies of another: ISIC_9000000 = ISIC_9000002, ISIC_9000008 = ISIC_9000014, "
        "ISIC_9000016 = ISIC_9000017"
    )
    assert verdict.problems[0] == (
        "the same file in different groups: ISIC_9000000 (HAM_0000000), ISIC_9000002 (HAM_0000001)"
    )
    assert verdict.problems[1] == "the same file with different labels: ISIC_9000008 (mel), ISIC_9000014 (vasc)"


def test_copies_of_one_lesion_are_no_problem_of_ham10000_whatever_dermamnist_does(ham_folder: Folder) -> None:
    root = ham_folder(lesions=LESIONS)
    shutil.copy(root / PART_1 / "ISIC_9000016.jpg", root / PART_2 / "ISIC_9000017.jpg")
    rows = [f"ISIC_90{k:05d},{'test' if k % 2 else 'train'}" for k in range(20)]
    (root / "dermamnist_split.csv").write_text("\n".join(["image_id,split", *rows]))
    assert check(root).problems == []
    own = verify(load_ham10000(root, on_bad_image="keep")).problems  # as if the split were the dataset's own
    assert own == ["the same file in different parts: ISIC_9000016 (train), ISIC_9000017 (test)"]


def own_images(root: Path) -> Path:
    for part, label, name in (("train", "a", "0"), ("train", "b", "1"), ("test", "a", "2"), ("test", "b", "3")):
        path = root / part / label / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.random.default_rng(int(name)).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    return root


@pytest.mark.parametrize("bits", [None, 32])
def test_copies_across_the_parts_of_an_own_split_are_named(tmp_path: Path, bits: int | None) -> None:
    root = own_images(tmp_path / "data")
    shutil.copy(root / "train" / "a" / "0.png", root / "train" / "a" / "again.png")  # within a part: a fact
    shutil.copy(root / "train" / "b" / "1.png", root / "test" / "b" / "1.png")
    settings: dict[str, Any] = {"near_duplicate_bits": bits, "memory": tmp_path, "on_bad_image": "keep"}
    verdict = verify(load_folder(root, **settings))
    assert verdict.problems[0] == "the same file in different parts: test/b/1.png (test), train/b/1.png (train)"
    assert len(verdict.problems) == 1
    assert "2 images are byte-identical copies of another: test/b/1.png = train/b/1.png, train/a/0" in verdict.facts[3]


def test_a_patient_may_have_two_diagnoses_but_near_duplicates_may_not(tmp_path: Path) -> None:
    root = own_images(tmp_path / "data")
    shutil.copy(root / "train" / "b" / "1.png", root / "near.bmp")
    assert cv2.imwrite(str(root / "near.bmp"), cv2.imread(str(root / "train" / "b" / "1.png")))
    rows = ["train/a/0.png,a,7", "train/b/1.png,b,7", "test/a/2.png,a,8", "near.bmp,a,8"]
    (root / "ours.csv").write_text("\n".join(["path,label,patient", *rows]))

    def verdict(group_column: str | None) -> Verdict:
        columns: dict[str, Any] = {"path_column": "path", "label_column": "label", "id_column": None}
        columns |= {"group_column": group_column, "split_column_name": None, "near_duplicate_bits": 32}
        return verify(load_table(root / "ours.csv", root=None, memory=tmp_path, on_bad_image="keep", **columns))

    assert verdict("patient").problems == []
    assert verdict("patient").facts[-1] == "1 groups of the column 'patient' have images of different labels"
    (problem,) = verdict(None).problems
    assert "has different labels: near.bmp (a), train/b/1.png (b)" in problem


def test_published_checksums_are_compared_where_the_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isic = {"_target_": "skinkd.data.isic2019.load_isic2019", "root": tmp_path}
    assert published_problems(isic) == []  # none is there
    right = hashlib.sha256(b"right").hexdigest()
    monkeypatch.setattr(isic2019, "SHA256", {"one.csv": right, "two.csv": right})
    (tmp_path / "one.csv").write_bytes(b"right")
    (tmp_path / "two.csv").write_bytes(b"wrong")
    (problem,) = published_problems(isic)
    assert problem.startswith(f"{tmp_path / 'two.csv'} is not the published file (sha256:{right})")
    medmnist = {
        "_target_": "skinkd.data.medmnist.load_medmnist",
        "root": str(tmp_path),
        "flag": "bloodmnist",
        "size": 28,
    }
    (tmp_path / "bloodmnist.npz").write_bytes(b"wrong")
    (problem,) = published_problems(medmnist)
    assert "bloodmnist.npz is not the published file (md5:7053d0359d879ad8a5505303e11de1dc)" in problem
    assert published_problems({"_target_": "skinkd.data.folder.load_table", "root": None}) == []


def test_unreadable_and_empty_files_and_arrays(ham_folder: Folder, tmp_path: Path) -> None:
    root = ham_folder(lesions=LESIONS)
    (root / PART_1 / "ISIC_9000000.jpg").write_bytes(b"")
    (root / PART_1 / "ISIC_9000002.jpg").unlink()
    (root / PART_1 / "ISIC_9000002.jpg").mkdir()
    problems = check(root).problems
    assert len(problems) == 2 and problems[0].endswith("is empty") and "cannot be read" in problems[1]

    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    frame = load_ham10000(root, on_bad_image="keep").frame.head(4)
    paths = [image_path(tmp_path / "a.npy", k * 192, 8, 8, 3) for k in range(4)]
    table = ImageTable("arrays", ("a", "b", "c", "d", "e", "f"), frame.assign(path=paths))
    verdict = verify(table)
    assert len(verdict.problems) == 1 and "is truncated" in verdict.problems[0]


@pytest.mark.slow
def test_the_real_dataset(real_data: Path) -> None:
    verdict = check(real_data / "ham10000")
    assert verdict.problems == [] and verdict.facts[0].startswith("10,015 images, 7 classes, 7,452 groups")


@pytest.fixture
def table(ham_folder: Folder) -> ImageTable:
    everyone = dict.fromkeys(("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"), 4)
    return load_ham10000(ham_folder(lesions=everyone), on_bad_image="error")


def decoded(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def test_the_class_table_counts(table: ImageTable) -> None:
    fractions = {"train": 0.5, "val": 0.25, "test": 0.25}
    parts = make_split(table, protocol="grouped", fractions=fractions, seed=0, fold=None, folds=None)
    rows = class_table(table, parts).set_index("class")
    assert rows.loc["all", ["images", "groups", "train", "val", "test"]].tolist() == [56, 28, 28, 14, 14]
    assert rows.loc["mel", ["images", "groups", "train", "val", "test"]].tolist() == [8, 4, 4, 2, 2]
    assert rows["share"].tolist() == pytest.approx([1 / 7] * 7 + [1])
    picture = png(table_picture(class_table(table, parts)))
    assert decoded(picture).std() > 5
    text = page("<HAM> & co", class_table(table, parts), picture)
    assert "<HAM>" not in text and "&lt;HAM&gt; &amp; co" in text and "data:image/png;base64,iVBOR" in text


def test_sheets_show_the_images(table: ImageTable) -> None:
    sheet = decoded(png(contact_sheet(table, each=3, inches=0.6, seed=0)))
    assert np.array_equal(sheet, decoded(png(contact_sheet(table, each=3, inches=0.6, seed=0))))
    assert not np.array_equal(sheet, decoded(png(contact_sheet(table, each=3, inches=0.6, seed=1))))
    figure = augment_sheet(table, eval_pipeline(image_size=16), images=2, copies=3, inches=0.6, seed=0)
    shapes = [axis.images[0].get_array().shape for axis in figure.axes]  # type: ignore[union-attr]
    assert shapes == 2 * [(30, 40, 3), *[(16, 16, 3)] * 3]
