"""ISIC 2024 in its published layout, on made-up images: a folder or an HDF5 file, the same table, the same pixels."""

import json
import os
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from train_process import only_run

from skinkd.data import hdf5
from skinkd.data.arrays import file_of, range_of
from skinkd.data.files import file_problem, limit_pixels, read_image, read_regular
from skinkd.data.hashing import file_digests, image_hashes
from skinkd.data.isic2024 import IMAGES, METADATA, SOURCE, load_isic2024, read_metadata
from skinkd.data.table import ImageTable
from skinkd.data.verify import verify
from skinkd.errors import UserError
from skinkd.train import train
from tests.data.test_verbs import run
from tests.scoring.test_metrics import challenge_metric

h5py = pytest.importorskip("h5py")

# the published columns, some of those of the measurements left out
HEADER = "isic_id,target,patient_id,age_approx,sex,anatom_site_general,clin_size_long_diam_mm,image_type,tbp_lv_A,attribution"
PATIENTS, EACH = 12, 4


def images(count: int = PATIENTS * EACH) -> dict[str, bytes]:
    """JPEGs of crops: a coloured noise of 24 to 31 pixels a side."""
    rng = np.random.default_rng(0)
    made = {}
    for k in range(count):
        side = 24 + k % 8
        small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        pixels = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
        made[f"ISIC_{15670 + 7 * k:07d}"] = cv2.imencode(".jpg", pixels)[1].tobytes()
    return made


def row(k: int, name: str) -> str:
    malignant = int(k % 3 == 0)
    age = "" if k == 1 else "60.0"
    return f'{name},{malignant},IP_{k // EACH:07d},{age},male,lower extremity,3.04,TBP tile: close-up,20.2,"Clinic, A"'


def write_folder(root: Path, *, as_hdf5: bool, made: dict[str, bytes] | None = None) -> Path:
    made = images() if made is None else made
    root.mkdir(parents=True, exist_ok=True)
    (root / METADATA).write_text("\n".join([HEADER, *(row(k, name) for k, name in enumerate(made))]) + "\n")
    if as_hdf5:
        with h5py.File(root / IMAGES, "w") as file:
            for name, data in made.items():
                file.create_dataset(name, data=np.bytes_(data))
    else:
        (root / "train-image" / "image").mkdir(parents=True)
        for name, data in made.items():
            (root / "train-image" / "image" / f"{name}.jpg").write_bytes(data)
    return root


def load(root: Path, on_bad_image: str = "error") -> ImageTable:
    return load_isic2024(root, memory=root.parent / "memory", on_bad_image=on_bad_image)


def test_a_folder_and_the_hdf5_file_are_the_same_table_and_pixels(tmp_path: Path) -> None:
    folder = load(write_folder(tmp_path / "a", as_hdf5=False))
    packed = load(write_folder(tmp_path / "b", as_hdf5=True))
    pd.testing.assert_frame_equal(folder.frame.drop(columns="path"), packed.frame.drop(columns="path"))
    assert packed.classes == ("benign", "malignant") and packed.frame["label"].sum() == PATIENTS * EACH / 3
    assert packed.frame["group"].nunique() == PATIENTS and packed.frame["age"].tolist()[:2] == ["60.0", ""]
    assert packed.frame["body_site"].unique().tolist() == ["lower extremity"]
    paths = [table.frame["path"].tolist() for table in (folder, packed)]
    for plain, inside, data in zip(*paths, images().values(), strict=True):
        assert read_regular(inside) == data == Path(plain).read_bytes()
        np.testing.assert_array_equal(read_image(inside), read_image(plain))
        assert file_of(inside) == str(tmp_path / "b" / IMAGES)
    np.testing.assert_array_equal(*(image_hashes(one, memory=None) for one in paths))
    np.testing.assert_array_equal(*(file_digests(one, memory=None) for one in paths))
    assert not verify(packed, source=SOURCE).problems


def test_the_list_of_images_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "isic2024", as_hdf5=True)
    first = load(root)
    with mock.patch.object(hdf5, "_search", side_effect=AssertionError("searched again")):
        pd.testing.assert_frame_equal(load(root).frame, first.frame)
    for content in ("damaged", "[]", json.dumps({"key": "other", "images": {}})):
        (tmp_path / "memory" / "hdf5-train-image.json").write_text(content)
        pd.testing.assert_frame_equal(load(root).frame, first.frame)
    made = dict(reversed(images().items()))  # the same images in other places of the file
    write_folder(root, as_hdf5=True, made=made)
    os.utime(root / IMAGES, (1, 1))
    for name, path in load(root).frame.set_index("image_id")["path"].items():
        assert read_regular(path) == made[str(name)]


def test_a_missing_a_cut_and_a_damaged_image(tmp_path: Path) -> None:
    made = images(8)
    cut, text = list(made)[2:4]
    root = write_folder(tmp_path / "isic2024", as_hdf5=True, made={**made, cut: made[cut][:-9], text: b"no image"})
    with (root / METADATA).open("a") as file:
        file.write(row(9, "ISIC_9999999") + "\n")
    with pytest.raises(UserError, match=r"1 of the 9 images .* are missing \(ISIC_9999999\)"):
        load(root)
    assert load(root, "skip").frame["image_id"].tolist() == [name for name in made if name not in (cut, text)]
    kept = load(root, "keep")
    problems = verify(kept, source=SOURCE).problems
    assert len(problems) == 3 and f"{cut} is truncated" in problems[0] and f"{text} is not an image" in problems[1]
    path = kept.frame["path"].iloc[0]
    place = range_of(path)
    assert place is not None
    os.truncate(place.file, place.offset + 40)
    assert file_problem(path) == "is truncated"
    for beyond in (place.offset + 41, 10**30):
        far = path.replace(f"#{place.offset},", f"#{beyond},")
        assert file_problem(far) == "is empty" and read_regular(far) == b""


def test_an_image_above_max_pixels_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKINKD_MAX_PIXELS", "1")
    limit_pixels(30 * 30)
    table = load(write_folder(tmp_path / "isic2024", as_hdf5=True), "skip")
    assert 0 < len(table) < PATIENTS * EACH
    with pytest.raises(UserError, match=r"more than data\.max_pixels=900"):
        load(tmp_path / "isic2024")


@pytest.mark.parametrize("kind", ["external", "soft", "storage", "virtual", "group", "chunked", "variable", "matrix"])
def test_no_member_leads_out_of_the_file(tmp_path: Path, kind: str) -> None:
    """The secret is a valid image in another file, which no member may show."""
    data = next(iter(images().values()))
    (tmp_path / "secret.jpg").write_bytes(data)
    with h5py.File(tmp_path / "other.hdf5", "w") as other:
        other["image"] = np.frombuffer(data, np.uint8)
    root = write_folder(tmp_path / "isic2024", as_hdf5=True)
    name = next(iter(images()))
    with h5py.File(root / IMAGES, "a") as file:
        file["own"] = file.pop(name)
        if kind == "external":
            file[name] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "image")
        elif kind == "soft":
            file[name] = h5py.SoftLink("/own")
        elif kind == "storage":
            place = [(str(tmp_path / "secret.jpg"), 0, len(data))]
            file.create_dataset(name, (len(data),), np.uint8, external=place)
        elif kind == "virtual":
            layout = h5py.VirtualLayout((len(data),), np.uint8)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "image", (len(data),))
            file.create_virtual_dataset(name, layout)
        elif kind == "group":
            file.create_group(name)
        elif kind == "chunked":
            file.create_dataset(name, data=np.frombuffer(data, np.uint8), chunks=(16,), compression="gzip")
        elif kind == "variable":
            file.create_dataset(name, data="text", dtype=h5py.string_dtype())
        else:
            file.create_dataset(name, data=np.zeros((4, 4), np.uint8))
    words = {"external": "is a link", "soft": "is a link", "storage": "in another file", "virtual": "in another file"}
    words |= {"group": "not a dataset", "chunked": "not stored in one piece"}
    with pytest.raises(UserError, match=f"{name} .*{words.get(kind, 'not the bytes of one file')}"):
        load(root)


def test_a_vector_of_bytes_and_a_file_behind_a_user_block_are_read(tmp_path: Path) -> None:
    made = images(3)
    with h5py.File(tmp_path / "own.hdf5", "w", userblock_size=512) as file:
        for name, data in made.items():
            file[name] = np.frombuffer(data, np.uint8)
    found = hdf5.images_in(tmp_path / "own.hdf5", memory=tmp_path / "memory")
    assert {name: read_regular(path) for name, path in found.items()} == made


def test_what_is_no_hdf5_file_and_a_missing_package_are_one_sentence(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "isic2024", as_hdf5=True)
    with mock.patch.object(hdf5.importlib.util, "find_spec", return_value=None):
        with pytest.raises(UserError, match=r"needs the package h5py; run pip install 'skinkd\[hdf5\]'"):
            load(root)
        load(write_folder(tmp_path / "folder", as_hdf5=False))  # which needs no h5py
    whole = (root / IMAGES).read_bytes()
    for content in (b"", b"no HDF5", whole[:600], whole[: len(whole) // 2]):
        (root / IMAGES).write_bytes(content)
        with pytest.raises(UserError, match="download it again"):
            load(root)
    (root / IMAGES).unlink()
    with pytest.raises(UserError, match=r"no train-image\.hdf5 and no folder train-image"):
        load(root)
    (root / IMAGES).mkdir()
    with pytest.raises(UserError, match=r"cannot be read \("):
        load(root)
    with pytest.raises(UserError, match=r"there is no train-metadata\.csv"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (",1,IP_0000000", ",2,IP_0000000", "target='2'"),
        (",1,IP_0000000", ",,IP_0000000", "line 2: 'target' is empty"),
        ("patient_id", "patient", "has no column 'patient_id'"),
        (",20.2,", ",", "line 2 has 9 cells"),
        (",20.2,", ",20.2,1,", "line 2 has 11 cells"),
        ("ISIC_0015677", "ISIC_0015670", "appear more than once"),
        (HEADER, HEADER + "\n\n", None),
        (HEADER, HEADER.replace(",", " , "), None),
    ],
)
def test_faults_of_the_metadata_are_named(tmp_path: Path, old: str, new: str, words: str | None) -> None:
    root = write_folder(tmp_path / "isic2024", as_hdf5=False)
    expected = read_metadata(root / METADATA)
    (root / METADATA).write_text((root / METADATA).read_text().replace(old, new, 1))
    if words is None:
        got = read_metadata(root / METADATA)
        pd.testing.assert_frame_equal(got[expected.columns], expected)
    else:
        with pytest.raises(UserError, match=words):
            load(root)


def test_the_verbs_and_a_run_with_two_loading_processes(
    tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "isic2024", as_hdf5=True)
    found = run(tmp_path, "verify", "data=isic2024")
    assert found.returncode == 0 and "48 images, 2 classes, 12 groups" in found.stdout, found.stdout + found.stderr
    assert run(tmp_path, "describe", "data=isic2024", "out=sheet").returncode == 0
    assert (tmp_path / "sheet" / "contact_sheet.png").is_file()
    told = run(tmp_path, "download", "data=isic2024").stdout
    assert "kaggle.com" in told and str(tmp_path / "isic2024") in told
    for picture in ("plot_curves", "plot_confusion"):
        monkeypatch.setattr(f"skinkd.training.scores.{picture}", lambda *_, **__: None)
    words = [word for word in tiny if not word.startswith("data")]
    words += ["data=isic2024", f"paths.data_dir={tmp_path}", f"paths.output_dir={tmp_path / 'outputs'}"]
    words += [
        "data.image_size=32",
        "data.batch_size=8",
        "data.num_workers=2",
        "trainer.max_epochs=1",
        "monitor.metric=val/partial_auroc",
    ]
    with initialize_config_module(version_base="1.3", config_module="skinkd.conf"):
        train(compose("train", overrides=words))
    folder = only_run(tmp_path / "outputs")
    metrics = json.loads((folder / "metrics.json").read_text())
    table = pd.read_csv(folder / "predictions" / "test.csv")
    expected = challenge_metric((table["label"] == "malignant").to_numpy(np.int64), table["p_malignant"].to_numpy())
    assert metrics["test/partial_auroc"] == pytest.approx(expected, abs=1e-9)
