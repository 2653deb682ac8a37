"""The embedded dataset: the same bytes everywhere, HAM10000's format and shares, whole or absent."""

import csv
import hashlib
import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from skinkd.data.drawn_lesions import Photograph, draw_lesion, photograph
from skinkd.data.drawn_looks import LOOKS, blend
from skinkd.data.ham10000_folder import MASKS
from skinkd.data.synthetic import (
    ARTEFACTS,
    CLASSES,
    COLUMNS,
    FORMAT_VERSION,
    KINDS,
    METADATA,
    MIN_IMAGES,
    PARTS,
    artefact_masks,
    counts,
    generate,
)
from skinkd.errors import UserError

IMAGES, SIZE = 100, (48, 64)


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / METADATA, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _generate(root: Path, images: int, made: str | None) -> None:
    if generate(root, images=images, image_size=SIZE, seed=3) != (made and root / made):
        raise SystemExit("it gives another folder")


def _start(root: Path, images: int, made: str | None = None) -> multiprocessing.Process:
    """Generate in a process of its own, which ends well if the folder of this name is what it gives."""
    process = multiprocessing.get_context("fork").Process(target=_generate, args=(root, images, made))
    process.start()
    return process  # type: ignore[return-value]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("synthetic"), images=IMAGES, image_size=SIZE, seed=3)


def test_same_arguments_give_the_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    again = generate(tmp_path / "not" / "there" / "yet", images=IMAGES, image_size=SIZE, seed=3)
    assert again.name == folder.name
    assert _hashes(again) == _hashes(folder)
    other = generate(tmp_path, images=IMAGES, image_size=SIZE, seed=4)
    here, there = _hashes(folder), _hashes(other)
    photographs = [name for name in here if name.endswith(".jpg")]
    assert len(photographs) == IMAGES and photographs == [name for name in there if name.endswith(".jpg")]
    assert all(here[name] != there[name] for name in photographs)


def test_a_finished_folder_is_not_generated_again(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert generate(folder.parent, images=IMAGES, image_size=SIZE, seed=3) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_folder_has_ham10000s_format(folder: Path) -> None:
    rows = _rows(folder)
    assert tuple(rows[0]) == COLUMNS
    ids = [row["image_id"] for row in rows]
    assert len(set(ids)) == IMAGES
    found = [path.stem for part in PARTS for path in (folder / part).iterdir()]
    assert sorted(found) == sorted(ids) and len(list((folder / PARTS[0]).iterdir())) == IMAGES / 2
    assert {path.name for path in (folder / MASKS).iterdir()} == {f"{i}_segmentation.png" for i in ids}
    assert not any(name.startswith(("ISIC", "HAM")) for row in rows for name in (row["image_id"], row["lesion_id"]))
    for part in PARTS:
        for path in (folder / part).iterdir():
            image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert image.shape == (*SIZE, 3) and image.std() > 5
    for row in rows:
        assert row["age"] == "" or 0 <= int(row["age"]) <= 85
        assert row["sex"] in ("male", "female", "unknown") and row["localization"] and row["dx_type"]


def test_photographs_of_a_lesion_share_its_class_and_person_but_not_their_pixels(folder: Path) -> None:
    lesions: dict[str, list[dict[str, str]]] = {}
    for row in _rows(folder):
        lesions.setdefault(row["lesion_id"], []).append(row)
    assert Counter(len(rows) for rows in lesions.values())[2] > 5
    for rows in lesions.values():
        assert len({tuple(v for k, v in row.items() if k != "image_id") for row in rows}) == 1
    hashes = [value for name, value in _hashes(folder).items() if name.endswith(".jpg")]
    assert len(set(hashes)) == IMAGES


@pytest.mark.parametrize("images", [MIN_IMAGES, 150, 1200, 10_015])
@pytest.mark.parametrize("seed", [0, 1])
def test_counts_follow_ham10000(images: int, seed: int) -> None:
    table = counts(images, seed=seed)
    assert sum(map(sum, table.values())) == images
    for name, per_lesion in table.items():
        assert len(per_lesion) >= 9 and sum(per_lesion) >= 12, name
        assert set(per_lesion) <= {1, 2, 3} and max(per_lesion) > 1, name
        if images >= 1200:
            # the paper's table: photographs of each class of 10,015
            share = {"nv": 6705, "mel": 1113, "bkl": 1099, "bcc": 514, "akiec": 327, "vasc": 142, "df": 115}[name]
            assert sum(per_lesion) == pytest.approx(images * share / 10_015, abs=1.5), name
    if images >= 1200:
        assert images / sum(map(len, table.values())) == pytest.approx(10_015 / 7_470, abs=0.02)
    assert table == counts(images, seed=seed)


def test_counts_are_those_of_the_folder(folder: Path) -> None:
    rows = _rows(folder)
    per_lesion = Counter((row["dx"], row["lesion_id"]) for row in rows)
    for name, expected in counts(IMAGES, seed=3).items():
        assert sorted(n for (dx, _), n in per_lesion.items() if dx == name) == sorted(expected)


def test_neither_the_number_nor_the_part_tells_the_class(tmp_path: Path) -> None:
    rows = _rows(generate(tmp_path, images=300, image_size=(32, 32), seed=0))
    nv = np.array([int(row["image_id"][4:]) for row in rows if row["dx"] == "nv"])
    others = np.array([int(row["image_id"][4:]) for row in rows if row["dx"] != "nv"])
    # uniform numbers: the means differ by less than four standard errors
    assert abs(nv.mean() - others.mean()) < 4 * 300 / np.sqrt(12) * np.sqrt(1 / len(nv) + 1 / len(others))


def test_masks_cover_the_lesion(folder: Path) -> None:
    fractions, darker = [], []
    for row in _rows(folder):
        mask = cv2.imread(str(folder / MASKS / f"{row['image_id']}_segmentation.png"), cv2.IMREAD_UNCHANGED)
        assert mask.shape == SIZE and mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 255}
        inside = mask > 0
        assert 0.01 < inside.mean() < 0.85, row["image_id"]
        fractions.append(inside.mean())
        image = cv2.imread(str(next(folder.glob(f"*/{row['image_id']}.jpg"))))
        green = image[..., 1].astype(float)
        around = cv2.dilate(mask, np.ones((9, 9), np.uint8)) > cv2.dilate(mask, np.ones((3, 3), np.uint8))
        darker.append(green[inside].mean() < green[around].mean())
    assert 0.12 < np.median(fractions) < 0.35  # HAM10000's own medians by class are 0.10 to 0.38
    assert np.mean(darker) > 0.9  # every pigment absorbs green; tubes and white scars are the exceptions


@pytest.mark.parametrize("size", [(32, 32), (40, 96), (96, 40), (225, 300)])
@pytest.mark.parametrize("name", LOOKS)
def test_a_photograph_at_any_size(name: str, size: tuple[int, int]) -> None:
    def take() -> Photograph:
        rng = np.random.default_rng(5)
        return photograph(draw_lesion(LOOKS[name], image_size=size, rng=rng), image_size=size, rng=rng)

    image, mask, hair, ruler = take()
    assert image.shape == (*size, 3) and mask.shape == hair.shape == ruler.shape == size
    assert image.dtype == mask.dtype == np.uint8
    assert mask.any() and not mask.all()
    assert image.std() > 3
    assert all(np.array_equal(one, again) for one, again in zip((image, mask, hair, ruler), take(), strict=True))


def _drawn(folder: Path, image_id: str) -> dict[str, np.ndarray]:
    files = artefact_masks(next(folder.glob(f"HAM10000_images*/{image_id}.jpg")))
    return {kind: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for kind, path in files.items()}


def _pixels(folder: Path, image_id: str) -> np.ndarray:
    return cv2.imread(str(next(folder.glob(f"HAM10000_images*/{image_id}.jpg"))))


def test_the_masks_of_hair_and_ruler_lie_on_what_is_darker_than_its_surroundings(folder: Path) -> None:
    """Hair and ticks are thin and dark: under their mask the image is darker than its median around them."""
    seen: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for row in _rows(folder):
        for kind, mask in _drawn(folder, row["image_id"]).items():
            assert mask.shape == SIZE and mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 255}
            grey = cv2.cvtColor(_pixels(folder, row["image_id"]), cv2.COLOR_BGR2GRAY)
            around = cv2.medianBlur(grey, 9)
            seen[kind].append(grey[mask > 0].mean() < around[mask > 0].mean())
    assert not seen["patch"]
    assert 25 <= len(seen["hair"]) <= 55 and 2 <= len(seen["ruler"]) <= 20  # 40 % and 8 % of 100 photographs
    assert np.mean(seen["hair"]) > 0.8 and np.mean(seen["ruler"]) > 0.8


def test_a_patch_is_in_every_photograph_of_its_class_and_changes_nothing_else(folder: Path, tmp_path: Path) -> None:
    patched = generate(tmp_path, images=IMAGES, image_size=SIZE, seed=3, patch_class="bkl")
    assert patched.name != folder.name
    plain, after = _hashes(folder), _hashes(patched)
    assert [name for name in plain if name.endswith((".csv", "segmentation.png")) and plain[name] != after[name]] == []
    for row in _rows(folder):
        drawn = _drawn(patched, row["image_id"])
        assert ("patch" in drawn) == (row["dx"] == "bkl")
        before, now = (_pixels(place, row["image_id"]).astype(int) for place in (folder, patched))
        if "patch" not in drawn:
            assert np.array_equal(before, now)
            continue
        inside = drawn["patch"] > 0
        changed = np.abs(before - now).max(axis=2)
        assert 0.03 < inside[:, 8:56].mean() < 0.07 and not inside[:, :8].any() and not inside[:, 56:].any()
        near = cv2.dilate(drawn["patch"], np.ones((37, 37), np.uint8)) > 0  # JPEG's blocks of colour spread a change
        assert changed[inside].mean() > 25 and changed[~near].max() == 0
    assert sorted(name for name in after if name.startswith(ARTEFACTS) and "_patch" not in name) == sorted(
        name for name in plain if name.startswith(ARTEFACTS)
    )


def test_every_class_has_a_look_of_its_own() -> None:
    assert list(LOOKS) == list(CLASSES) == sorted(LOOKS)
    assert all(other in LOOKS and other != name for name, c in CLASSES.items() for other in c.resembles)
    nv, mel = LOOKS["nv"], LOOKS["mel"]
    for weight in (0.0, 0.3, 1.0):
        mixed = blend(nv, mel, weight)
        assert mixed.asymmetry == pytest.approx((1 - weight) * nv.asymmetry + weight * mel.asymmetry)
        np.testing.assert_allclose(mixed.core, (1 - weight) * nv.core + weight * mel.core, rtol=1e-6)


def test_a_killed_process_leaves_nothing_that_looks_finished(folder: Path, tmp_path: Path) -> None:
    process = _start(tmp_path, 2000)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".*/HAM10000_images_part_*/*.jpg")):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".") and not list(tmp_path.glob("synthetic_*"))

    # what was left neither disturbs nor is touched, until it is a day old
    made = generate(tmp_path, images=IMAGES, image_size=SIZE, seed=3)
    assert _hashes(made) == _hashes(folder)
    assert left.exists()
    os.utime(left, (time.time() - 25 * 3600,) * 2)
    generate(tmp_path, images=MIN_IMAGES, image_size=(32, 32), seed=3)
    assert not left.exists() and not list(tmp_path.glob(".*"))


def test_two_processes_at_once_both_get_the_whole_folder(folder: Path, tmp_path: Path) -> None:
    processes = [_start(tmp_path, IMAGES, folder.name) for _ in range(3)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert _hashes(tmp_path / folder.name) == _hashes(folder)


def test_a_process_that_loses_the_race_keeps_the_winners_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import skinkd.data.synthetic as module

    write, entered = module._write, []

    def write_after_another_has_finished(*args: object, **kwargs: object) -> None:
        if not entered:
            entered.append(True)
            generate(tmp_path, images=IMAGES, image_size=SIZE, seed=3)
        write(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_write", write_after_another_has_finished)
    made = generate(tmp_path, images=IMAGES, image_size=SIZE, seed=3)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert _hashes(made) == _hashes(folder)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"images": MIN_IMAGES - 1}, f"at least {MIN_IMAGES}"),
        ({"image_size": (31, 64)}, "height"),
        ({"image_size": (64, 0)}, "width"),
        ({"image_size": (64,)}, "height and width"),
        ({"seed": -1}, "seed"),
        ({"patch_class": "mell"}, "did you mean 'mel'"),
    ],
)
def test_a_bad_argument_is_one_sentence_and_writes_nothing(change: dict, word: str, tmp_path: Path) -> None:
    arguments = {"images": IMAGES, "image_size": SIZE, "seed": 0, **change}
    with pytest.raises(UserError, match=word):
        generate(tmp_path / "root", **arguments)
    assert not (tmp_path / "root").exists()


def test_a_path_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        generate(tmp_path / "file", images=IMAGES, image_size=SIZE, seed=0)
    blocked = tmp_path / "root" / f"synthetic_{MIN_IMAGES}x32x32_seed0_v{FORMAT_VERSION}"
    blocked.mkdir(parents=True)
    (blocked / "notes.txt").write_text("someone's own")
    with pytest.raises(UserError, match="clear that path"):
        generate(tmp_path / "root", images=MIN_IMAGES, image_size=(32, 32), seed=0)
    assert [path.name for path in blocked.iterdir()] == ["notes.txt"]
    assert list((tmp_path / "root").iterdir()) == [blocked]
