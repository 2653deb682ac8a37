import logging
import math
import os
import resource
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinkd.data.decode import decode_file
from skinkd.data.files import (
    check_images,
    decode,
    decoding_problem,
    encoding_problem,
    file_problem,
    find_images,
    image_size,
    limit_pixels,
    read_image,
    usable_images,
)
from skinkd.data.hashing import image_hashes
from skinkd.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def huge_png(side: int = 60000) -> bytes:
    """Return a small PNG, whole at its ends, whose header claims more pixels than OpenCV takes."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"0")),
        (b"IEND", b""),
    )
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encode(ending: str, *options: int) -> bytes:
    return cv2.imencode(ending, PIXELS, options)[1].tobytes()


JPEG = encode(".jpg")
PROGRESSIVE = encode(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
PNG = encode(".png")
# a thumbnail with an end marker of its own, in an APP1 segment between the start marker and the rest
THUMBNAIL = JPEG[:2] + b"\xff\xe1" + (2 + len(JPEG)).to_bytes(2, "big") + JPEG + JPEG[2:]
WHOLE = {
    "jpeg": JPEG,
    "progressive": PROGRESSIVE,
    "thumbnail": THUMBNAIL,
    "padded": JPEG + bytes(100),
    "long padding": JPEG + bytes(5000),
    "appended": JPEG + b"maker's own bytes" * 50,
    "thumbnail and appended": THUMBNAIL + b"maker's own bytes" * 50,
    "png": PNG,
    "png appended": PNG + b"text",
    "jpeg with a profile beyond the head": JPEG[:2] + b"\xff\xe2\xff\xff" + bytes(65533) + JPEG[2:],
    "jpeg with bytes between its segments": JPEG[:20] + b"\0\0" + JPEG[20:],
    "bmp": encode(".bmp"),
    "tiff": encode(".tiff"),
    "webp": encode(".webp"),
}
BROKEN = {
    "empty": (b"", "is empty"),
    "text": (b"<html>404 Not Found</html>", "is not an image"),
    "half a jpeg": (JPEG[: len(JPEG) // 2], "is truncated"),
    "two bytes": (JPEG[:2], "is truncated"),
    "jpeg of zeros": (JPEG[:300] + bytes(2000), "is truncated"),
    "cut after the thumbnail": (THUMBNAIL[: len(JPEG) + 200], "is truncated"),
    "half a png": (PNG[: len(PNG) // 2], "is truncated"),
    "rubbish between a jpeg's ends": (b"\xff\xd8" + b"rubbish" * 900 + b"\xff\xd9", "is not an image"),
    "a jpeg's ends alone": (b"\xff\xd8\xff\xd9", "is not an image"),
    "a jpeg without a frame": (b"\xff\xd8\xff\xda\0\x02\0\xff\xd9", "is not an image"),
    "rubbish between a png's ends": (PNG[:8] + b"rubbish" * 9 + PNG[-8:], "is not an image"),
    "half a bmp": (encode(".bmp")[:30], "is not an image"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_pass_and_decode(tmp_path: Path, name: str) -> None:
    path = tmp_path / "é 1.jpg"
    path.write_bytes(WHOLE[name])
    assert file_problem(path) is None
    assert encoding_problem(WHOLE[name]) is None
    image = read_image(path)
    assert image.shape == PIXELS.shape and image.dtype == np.uint8


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(tmp_path: Path, name: str) -> None:
    data, problem = BROKEN[name]
    path = tmp_path / "ISIC_1.jpg"
    path.write_bytes(data)
    assert file_problem(path) == encoding_problem(data) == problem
    with pytest.raises(UserError) as error:
        read_image(path)
    assert str(error.value).startswith(f"{path} {problem}; ") and "data.on_bad_image=skip" in str(error.value)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    assert file_problem(tmp_path / "absent.jpg") == "is missing"
    assert "cannot be read" in (file_problem(tmp_path) or "")
    for path in (tmp_path / "absent.jpg", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_image(path)


@given(share=st.floats(0, 1, exclude_max=True), name=st.sampled_from(["jpeg", "progressive", "thumbnail", "png"]))
def test_a_file_cut_anywhere_is_a_problem(tmp_path_factory: pytest.TempPathFactory, share: float, name: str) -> None:
    data = WHOLE[name][: int(share * len(WHOLE[name]))]
    path = tmp_path_factory.mktemp("cut") / "cut.jpg"
    path.write_bytes(data)
    assert file_problem(path) is not None
    with pytest.raises(UserError):
        read_image(path)


def test_pixels_are_rgb_whatever_the_file_holds(tmp_path: Path) -> None:
    colour = np.zeros((4, 5, 3), np.uint8)
    colour[...] = (10, 100, 250)  # R, G, B
    path = tmp_path / "colour.png"
    cv2.imwrite(str(path), colour[..., ::-1])
    np.testing.assert_array_equal(read_image(path), colour)
    cv2.imwrite(str(path), np.full((4, 5), 77, np.uint8))  # grey
    np.testing.assert_array_equal(read_image(path), np.full((4, 5, 3), 77))
    cv2.imwrite(str(path), np.full((4, 5, 3), 257 * 9, np.uint16))  # 16 bits
    np.testing.assert_array_equal(read_image(path), np.full((4, 5, 3), 9))


def test_an_image_that_only_decoding_shows_to_be_bad_gets_advice_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKINKD_MAX_PIXELS", str(60000**2))
    path = tmp_path / "huge.png"
    path.write_bytes(huge_png())
    assert file_problem(path) is None
    assert decoding_problem(path) == "cannot be decoded" and decoding_problem("a.npy#0,8,8,3") is None
    assert "cannot be read" in (decoding_problem(tmp_path) or "")
    with pytest.raises(UserError, match=r"huge\.png cannot be decoded, .* remove it"):
        read_image(path)


def test_a_files_ending_decides_between_two_of_one_name(tmp_path: Path) -> None:
    for ending in ("bmp", "JPG", "webp", "gif"):
        (tmp_path / f"a.{ending}").touch()
    (tmp_path / "b.TIF").touch()
    assert find_images(tmp_path, [""]) == {"a": str(tmp_path / "a.JPG"), "b": str(tmp_path / "b.TIF")}


@pytest.mark.parametrize("slow", [0.0, math.inf], ids=["threads from the second chunk on", "no threads"])
def test_check_images_keeps_the_order_over_many_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: float
) -> None:
    monkeypatch.setattr("skinkd.data.files.SLOW", slow)
    paths = [tmp_path / f"{k}.jpg" for k in range(700)]
    for k, path in enumerate(paths):
        path.write_bytes(JPEG if k not in (3, 300, 699) else JPEG[:-20])
    found = check_images([str(path) for path in paths])
    assert found == [(str(paths[k]), "is truncated") for k in (3, 300, 699)]
    assert check_images([]) == []


@pytest.fixture
def rows(tmp_path: Path) -> pd.DataFrame:
    paths = []
    for k in range(6):
        paths.append(str(tmp_path / f"{k}.jpg"))
        Path(paths[-1]).write_bytes(JPEG)
    return pd.DataFrame({"image_id": [f"i{k}" for k in range(6)], "path": paths})


def test_usable_images_drops_nothing_from_whole_files(rows: pd.DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    for choice in ("error", "skip"):
        pd.testing.assert_frame_equal(usable_images(rows, name="x", on_bad_image=choice), rows)
    assert not caplog.records


def test_usable_images_error_names_files_and_skip_counts_them(
    rows: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    Path(rows["path"][2]).write_bytes(JPEG[:-9])
    with pytest.raises(UserError) as damaged:
        usable_images(rows, name="x", on_bad_image="error")
    assert "1 of the 6 images of x" in str(damaged.value) and f"{rows['path'][2]} is truncated" in str(damaged.value)

    rows.loc[4, "path"] = ""
    with pytest.raises(UserError, match=r"1 of the 6 images named .* x are missing \(i4\)"):
        usable_images(rows, name="x", on_bad_image="error")

    with caplog.at_level(logging.WARNING):
        kept = usable_images(rows, name="x", on_bad_image="skip")
    assert kept["image_id"].tolist() == ["i0", "i1", "i3", "i5"]
    assert "2 of the 6 images" in caplog.text and "1 missing, 1 damaged" in caplog.text
    assert f"{rows['path'][2]} is truncated" in caplog.text


def test_usable_images_with_nothing_left_and_a_misspelt_choice(rows: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="did you mean 'skip'"):
        usable_images(rows, name="x", on_bad_image="skipp")
    for path in rows["path"]:
        Path(path).write_bytes(b"no")
    with pytest.raises(UserError, match="none of the 6 images of x"):
        usable_images(rows, name="x", on_bad_image="skip")


def test_a_file_of_another_kind_does_not_stop_the_check(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    assert [path for path, _ in check_images([str(tmp_path / "folder.jpg")])] == [str(tmp_path / "folder.jpg")]


def test_the_size_is_read_without_decoding() -> None:
    for ending in (".jpg", ".png", ".bmp", ".tif", ".webp"):
        assert image_size(encode(ending)) == (32, 24)
    for data in (*WHOLE.values(), huge_png()):
        assert image_size(data) in ((32, 24), (60000, 60000))
    for cut in range(len(JPEG)):
        assert image_size(JPEG[:cut]) in (None, (32, 24))


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_an_image_of_30000_pixels_a_side_is_named_and_not_decoded(kind: str, tmp_path: Path) -> None:
    frame = JPEG.index(b"\xff\xc0")
    jpeg = JPEG[: frame + 5] + struct.pack(">HH", 30000, 30000) + JPEG[frame + 9 :]
    file = tmp_path / f"huge.{kind}"
    file.write_bytes(huge_png(30000) if kind == "png" else jpeg)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "30000×30000 pixels, more than data.max_pixels=100000000" in (file_problem(file) or "")
    assert "30000×30000" in (decoding_problem(file) or "") and decode(file.read_bytes()) is None
    with pytest.raises(UserError, match="30000×30000"):
        read_image(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB; decoded it has 2.7 GB


def test_the_limit_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKINKD_MAX_PIXELS", "1")
    file = tmp_path / "small.jpg"
    file.write_bytes(JPEG)
    limit_pixels(32 * 24)
    assert file_problem(file) is None and read_image(file).shape == (24, 32, 3)
    limit_pixels(32 * 24 - 1)
    assert "32×24 pixels" in (file_problem(file) or "") and decode(JPEG) is None
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(UserError, match=r"data\.max_pixels"):
            limit_pixels(wrong)  # type: ignore[arg-type]


@pytest.mark.timeout(20)
def test_a_pipe_and_a_device_are_no_images(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), tmp_path):
        assert "cannot be read" in (file_problem(path) or "") and "cannot be read" in (decoding_problem(path) or "")
        with pytest.raises(UserError, match="cannot be read"):
            read_image(path)
    assert image_hashes([str(pipe)], memory=None).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("colours", [8, 9, 10, 32844, 32845])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_in_other_colours_is_named_and_not_misread(colours: int, order: str, tmp_path: Path) -> None:
    """OpenCV's red of L*a*b* is not that of other readers."""
    entries = {256: 8, 257: 8, 258: 8, 259: 1, 262: colours, 273: 200, 277: 3, 278: 8, 279: 192}
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    tags = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in entries.items())
    path = tmp_path / "image.tif"
    path.write_bytes((head + tags).ljust(200, b"\0") + bytes(192))
    assert "is a TIFF in" in (file_problem(path) or "") and "save it in RGB" in (decoding_problem(path) or "")
    with pytest.raises(UserError, match="save it in RGB"):
        read_image(path)
    with pytest.raises(UserError, match="save it in RGB"):
        decode_file(path, max_pixels=1000)


def test_a_tiff_in_rgb_is_read(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    cv2.imwrite(str(path), np.full((4, 4, 3), (1, 2, 3), np.uint8))
    assert file_problem(path) is None and read_image(path)[0, 0].tolist() == [3, 2, 1]
