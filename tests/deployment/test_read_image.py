"""The reader that goes with an export, pixel for pixel against the reader of predict."""

import io
import json
import re
import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from skinkd.data.decode import decode_file
from skinkd.data.transforms import eval_pipeline
from skinkd.deployment import read_image as reader

RNG = np.random.default_rng(0)
RGBA = RNG.integers(0, 256, (50, 70, 4), dtype=np.uint8)
RGB, GREY = Image.fromarray(RGBA[..., :3]), Image.fromarray(RGBA[..., 0])
SOLID = Image.fromarray(np.dstack([RGBA[..., :3], np.full((50, 70), 255, np.uint8)]))
FEW = Image.fromarray(RGBA[..., :3] // 128 * 128)
DEEP = RNG.integers(0, 2**16, (50, 70, 4), dtype=np.uint16)


def encoded(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def by_opencv(image: np.ndarray, ending: str) -> bytes:
    return cv2.imencode(ending, image)[1].tobytes()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


READ = {
    "grey png": encoded(GREY, "PNG"),
    "grey jpeg": encoded(GREY, "JPEG"),
    "one bit": encoded(GREY.convert("1"), "PNG"),
    "palette": encoded(RGB.quantize(50), "PNG"),
    "palette with one transparent colour": encoded(RGB.quantize(50), "PNG", transparency=3),
    "palette with alpha": encoded(RGB.quantize(50), "PNG", transparency=bytes(range(0, 250, 5))),
    "one transparent colour": encoded(FEW, "PNG", transparency=(128, 0, 128)),
    "rgba png": encoded(RGBA, "PNG"),
    "rgba png, no pixel transparent": encoded(SOLID, "PNG"),
    "rgba png, no pixel transparent, turned": encoded(SOLID, "PNG", exif=turned(6)),
    "rgba png, upright by its exif": encoded(RGBA, "PNG", exif=turned(1)),
    "grey png with alpha": encoded(Image.fromarray(RGBA).convert("LA"), "PNG"),
    "rgba png of 16 bits": by_opencv(DEEP, ".png"),
    "png of 16 bits": by_opencv(DEEP[..., :3], ".png"),
    "grey png of 16 bits": by_opencv(DEEP[..., 0], ".png"),
    "tiff of 16 bits": by_opencv(DEEP[..., :3], ".tiff"),
    "grey tiff of 16 bits": by_opencv(DEEP[..., 0], ".tiff"),
    "four samples without alpha in a tiff": by_opencv(DEEP, ".tiff"),
    "palette tiff": encoded(RGB.quantize(50), "TIFF"),
    "cmyk jpeg": encoded(Image.fromarray(RGBA, "CMYK"), "JPEG", quality=90),
    "cmyk tiff": encoded(Image.fromarray(RGBA, "CMYK"), "TIFF"),
    "webp": encoded(RGB, "WEBP"),
    "rgba webp": encoded(RGBA, "WEBP", quality=80),
    "rgba webp without loss": encoded(RGBA, "WEBP", lossless=True, exact=True),
    "bmp": encoded(RGB, "BMP"),
    "bmp of 32 bits": encoded(RGBA, "BMP"),
    "animated png": encoded(RGB, "PNG", save_all=True, append_images=[GREY.convert("RGB")]),
}
REFUSED = {
    "one transparent grey": encoded(GREY, "PNG", transparency=7),
    "rgba tiff": encoded(RGBA, "TIFF"),
    "grey tiff with alpha": encoded(Image.fromarray(RGBA).convert("LA"), "TIFF"),
    **{f"rgba png, orientation {n}": encoded(RGBA, "PNG", exif=turned(n)) for n in range(2, 9)},
    "rgba webp, turned": encoded(RGBA, "WEBP", lossless=True, exif=turned(3)),
    "gif": encoded(RGB, "GIF"),
    "empty": b"",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
}
SIZES = [(48, 64), (64, 64), (64, 47), (65, 64), (450, 600), (601, 449), (20, 31), (1, 9), (333, 97), (129, 127)]


def same(path: Path, size: int) -> None:
    """The reader gives the pixels that predict gives to the network."""
    image = decode_file(path, max_pixels=1_000_000)
    expected = eval_pipeline(image_size=size)(image=image)["image"].transpose(2, 0, 1)
    found = reader.read_image(path, size)
    assert found.dtype == np.uint8 and found.shape == (3, size, size) and found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("size", [64, 47])
def test_sizes(shape: tuple[int, int], size: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    same(tmp_path / "a.png", size)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_of_exif(orientation: int, tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30, 0], pixels[20:, 30:, 1] = 255, 255
    (tmp_path / "a.jpg").write_bytes(encoded(pixels, "JPEG", exif=turned(orientation), quality=95))
    same(tmp_path / "a.jpg", 32)
    corner = reader.read_image(tmp_path / "a.jpg", 32)[0]
    red = [(0, 0), (0, -1), (-1, -1), (-1, 0), (0, 0), (0, -1), (-1, -1), (-1, 0)][orientation - 1]
    assert corner[red] > 200 and corner[-1 - red[0], -1 - red[1]] < 50, "it is turned upright"


@pytest.mark.parametrize("name", READ)
def test_the_pixels_are_those_of_predict(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(READ[name])
    for size in (32, 64):
        same(path, size)


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_read_alike_is_refused(name: str, tmp_path: Path) -> None:
    """Each of these has other pixels in OpenCV than in predict, or predict refuses it."""
    path = tmp_path / "image"
    path.write_bytes(REFUSED[name])
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))} (has transparency that|cannot be decoded)"):
        reader.read_image(path, 32)


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"a\.jpg cannot be decoded"):
        reader.read_image(tmp_path / "a.jpg", 32)


def test_the_size_is_that_of_preprocess_json_beside_it(tmp_path: Path) -> None:
    copy = tmp_path / "read_image.py"
    shutil.copyfile(reader.__file__, copy)
    (tmp_path / "preprocess.json").write_text(json.dumps({"image_size": 24}))
    (tmp_path / "a.png").write_bytes(encoded(np.zeros((30, 40, 3), np.uint8), "PNG"))
    spec = spec_from_file_location("a_copy", copy)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.read_image(tmp_path / "a.png").shape == (3, 24, 24)


def test_it_is_short_and_needs_numpy_and_opencv_alone() -> None:
    lines = Path(reader.__file__).read_text("utf-8").splitlines()
    assert 30 <= len(lines) <= 40
    imported = {match[1].split(".")[0] for line in lines if (match := re.match(r"(?:import|from) (\S+)", line))}
    assert imported - set(sys.stdlib_module_names) == {"cv2", "numpy"}
