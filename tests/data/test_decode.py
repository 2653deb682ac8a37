"""A user's own image: pixels as in training, or one sentence, in bounded memory, whatever the file."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_images import BMP, JPEG, LARGE, PIXELS, PNG, REFUSED, SIDE, TIFF, WEBP, chunk, encoded, png
from PIL import Image, ImageCms, ImageOps

from skinkd.data.decode import decode_file, decode_image
from skinkd.data.files import read_image
from skinkd.errors import UserError

LIMIT = 25_000_000
PALETTE = Image.fromarray(PIXELS).quantize(16)
GREY = Image.fromarray(PIXELS).convert("L")
DEEP = Image.fromarray((np.asarray(GREY).astype(np.uint16) << 8) + 77)
FADING = np.dstack([PIXELS, np.linspace(0, 255, 30 * 40).reshape(30, 40).astype(np.uint8)])
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[274] = orientation
    return block


AS_IN_TRAINING = {
    **{"jpeg": JPEG, "png": PNG, "webp": WEBP, "bmp": BMP, "tiff": TIFF},
    **{f"jpeg, chroma {n}": encoded(PIXELS, "JPEG", quality=90, subsampling=n) for n in range(3)},
    "progressive jpeg": encoded(PIXELS, "JPEG", progressive=True),
    "jpeg, appended bytes": JPEG + b"maker's own bytes" * 50,
    "jpeg, bytes between segments": JPEG[:20] + b"\0\0" + JPEG[20:],
    "jpeg with a thumbnail": JPEG[:2] + b"\xff\xe1" + (2 + len(JPEG)).to_bytes(2, "big") + JPEG + JPEG[2:],
    "grey jpeg": saved(GREY, "JPEG"),
    "cmyk jpeg": saved(Image.fromarray(PIXELS).convert("CMYK"), "JPEG"),
    "grey png": saved(GREY, "PNG"),
    "palette": saved(PALETTE, "PNG"),
    "one bit": saved(GREY.convert("1"), "PNG"),
    "16 bits": saved(DEEP, "PNG"),
    "png with a profile": encoded(PIXELS, "PNG", icc_profile=PROFILE),
    "png with a gamma": PNG[:33] + chunk(b"gAMA", (100000).to_bytes(4, "big")) + PNG[33:],
    "animated png": saved(Image.fromarray(PIXELS), "PNG", save_all=True, append_images=[GREY.convert("RGB")]),
    "interlaced png": png(37, 21, interlaced=1),
    "lossless webp": encoded(PIXELS, "WEBP", lossless=True),
    "packed tiff": encoded(PIXELS, "TIFF", compression="tiff_lzw"),
    "deflated tiff": encoded(PIXELS, "TIFF", compression="tiff_adobe_deflate"),
    "cmyk tiff": saved(Image.fromarray(PIXELS).convert("CMYK"), "TIFF"),
    "16-bit tiff": saved(DEEP, "TIFF"),
    **{
        f"{kind}, orientation {n}": encoded(PIXELS, kind, exif=exif(n))
        for kind in ("JPEG", "PNG", "WEBP", "TIFF")
        for n in range(1, 9)
    },
}


@pytest.mark.parametrize("name", AS_IN_TRAINING)
def test_pixels_are_those_of_training(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(AS_IN_TRAINING[name])
    image = decode_file(path, max_pixels=LIMIT)
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, read_image(path))


def test_the_upper_bits_of_sixteen_are_kept_and_cmyk_is_converted() -> None:
    for kind in ("PNG", "TIFF"):
        deep = decode_image(saved(DEEP, kind), max_pixels=LIMIT)
        np.testing.assert_array_equal(deep, np.repeat(np.asarray(GREY)[:, :, None], 3, axis=2))
    data = AS_IN_TRAINING["cmyk jpeg"]
    by_pillow = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode_image(data, max_pixels=LIMIT) - by_pillow).max() <= 2


TRANSPARENT = {
    "rgba png": encoded(FADING, "PNG"),
    "grey with alpha": saved(Image.fromarray(FADING).convert("LA"), "PNG"),
    "palette with one transparent colour": saved(PALETTE, "PNG", transparency=3),
    "one transparent colour": encoded(PIXELS, "PNG", transparency=tuple(int(level) for level in PIXELS[0, 0])),
    "one transparent grey": saved(GREY, "PNG", transparency=GREY.getpixel((0, 0))),
    "rgba webp": encoded(FADING, "WEBP", lossless=True, exact=True),
    "rgba tiff": encoded(FADING, "TIFF"),
    "grey tiff with alpha": saved(Image.fromarray(FADING).convert("LA"), "TIFF"),
    **{
        f"{kind}, orientation {n}": encoded(FADING, kind, exif=exif(n), **options)
        for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {}))
        for n in range(1, 9)
    },
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparent_pixels_lie_on_white(name: str) -> None:
    with Image.open(io.BytesIO(TRANSPARENT[name])) as image:
        upright = ImageOps.exif_transpose(image).convert("RGBA")
    expected = np.asarray(Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB"))
    found = decode_image(TRANSPARENT[name], max_pixels=LIMIT)
    assert found.shape == expected.shape and np.abs(found - expected.astype(int)).max() <= 1
    assert found.min() < 100  # not white alone


def test_sixteen_bits_with_alpha() -> None:
    assert decode_image(png(9, 5, depth=16, colour=6), max_pixels=LIMIT).tolist() == [[[255] * 3] * 9] * 5


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_photograph_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make, words = REFUSED[name]
    path = tmp_path / "image.jpg"
    path.write_bytes(make())
    with pytest.raises(UserError) as refused:
        decode_file(path, max_pixels=LIMIT)
    sentence = str(refused.value)
    assert sentence.startswith(f"{path} ") and words in sentence and len(sentence.splitlines()) == 1
    with pytest.raises(UserError, match=r"^the image "):
        decode_image(path.read_bytes(), max_pixels=LIMIT)


@pytest.mark.timeout(20)
def test_only_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    places = {tmp_path / "pipe.jpg": "a pipe", Path("/dev/zero"): "a device", tmp_path: "a folder"}
    for path, kind in places.items():
        with pytest.raises(UserError, match=rf"cannot be read \(it is {kind}\)"):
            decode_file(path, max_pixels=LIMIT)
    with pytest.raises(UserError, match="No such file"):
        decode_file(tmp_path / "absent.jpg", max_pixels=LIMIT)


def test_the_limit_is_the_callers() -> None:
    assert decode_image(PNG, max_pixels=1200).shape == (30, 40, 3)
    with pytest.raises(UserError, match="40×30 pixels, more than max_pixels=1199"):
        decode_image(PNG, max_pixels=1199)
    with pytest.raises(UserError, match="whole number"):
        decode_image(PNG, max_pixels=0)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp", "tiff", "rgba png", "rgba webp", "rgba tiff"])
def test_damage_anywhere_ends_in_pixels_or_in_a_sentence(kind: str) -> None:
    data = (AS_IN_TRAINING | TRANSPARENT)[kind]
    rng = np.random.default_rng(0)
    damaged = [data[:end] for end in range(0, len(data), 7)]
    for _ in range(150):
        changed = bytearray(data)
        for place in rng.integers(min(len(data), int(rng.choice([64, len(data)]))), size=4):
            changed[place] = rng.integers(256)
        damaged.append(bytes(changed))
    for one in damaged:
        try:
            image = decode_image(one, max_pixels=1_000_000)
        except UserError as refused:
            assert len(str(refused).splitlines()) == 1
        else:
            assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8


MEASURE = """
import json, os, sys
from skinkd.data.decode import decode_file
from skinkd.errors import UserError

limit, *paths = json.loads(sys.argv[1])
for path in ["", *paths]:
    child = os.fork()
    if not child:
        try:
            decode_file(path, max_pixels=limit)
        except UserError:
            pass
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    print(json.dumps([os.path.basename(path), status, usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime]))
"""


@pytest.mark.timeout(200)
@pytest.mark.parametrize("side", [SIDE // 5, pytest.param(SIDE, marks=pytest.mark.slow)])
def test_memory_is_bounded(side: int, tmp_path: Path) -> None:
    """At most 12 bytes for each of max_pixels: 300 MB for 25 megapixels. Each file is decoded in a process of its own."""
    files = {name: make(side) for name, make in LARGE.items()}
    if side == SIDE:
        files |= {name: make() for name, (make, _) in REFUSED.items()}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    words = json.dumps([side**2, *(str(tmp_path / name) for name in files)])
    done = subprocess.run([sys.executable, "-c", MEASURE, words], capture_output=True, text=True, check=True)
    measured = [json.loads(line) for line in done.stdout.splitlines()]
    idle = measured[0][2]
    assert [name for name, *_ in measured[1:]] == list(files)
    assert {name: status for name, status, *_ in measured if status} == {}
    most = 12 * side**2 + (10_000_000 if side < SIDE else 0)  # modules are loaded too
    assert {name: peak - idle for name, _, peak, _ in measured if peak - idle > most} == {}
    assert max(peak - idle for _, _, peak, _ in measured) > most / 2, "the measurement sees decoding"
    print(*(f"{(peak - idle) / 1e6:6.0f} MB {seconds:5.2f} s {name}" for name, _, peak, seconds in measured), sep="\n")
