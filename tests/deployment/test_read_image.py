"""The reader that goes with an export, against the reading of validation."""

import io
import json
import re
import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from skinkd.data import files
from skinkd.data.transforms import eval_pipeline
from skinkd.deployment import read_image as reader

SIZES = [(48, 64), (64, 64), (64, 47), (65, 64), (450, 600), (601, 449), (20, 31), (1, 9), (333, 97), (129, 127)]


def same(path: Path, size: int) -> None:
    expected = eval_pipeline(image_size=size)(image=files.read_image(path))["image"].transpose(2, 0, 1)
    found = reader.read_image(path, size)
    assert found.dtype == np.uint8 and found.shape == (3, size, size) and found.flags.c_contiguous
    assert np.array_equal(found, expected)


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
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    same(tmp_path / "a.jpg", 32)
    corner = reader.read_image(tmp_path / "a.jpg", 32)[0]
    red = [(0, 0), (0, -1), (-1, -1), (-1, 0), (0, 0), (0, -1), (-1, -1), (-1, 0)][orientation - 1]
    assert corner[red] > 200 and corner[-1 - red[0], -1 - red[1]] < 50, "it is turned upright"


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "1", "CMYK"])
def test_kinds_of_pixels(mode: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    grey = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    image = grey if mode == "I;16" else Image.fromarray(values).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    same(path, 32)


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"a\.jpg cannot be decoded"):
        reader.read_image(tmp_path / "a.jpg", 32)


def test_the_size_is_that_of_preprocess_json_beside_it(tmp_path: Path) -> None:
    copy = tmp_path / "read_image.py"
    shutil.copyfile(reader.__file__, copy)
    (tmp_path / "preprocess.json").write_text(json.dumps({"image_size": 24}))
    data = io.BytesIO()
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(data, "PNG")
    (tmp_path / "a.png").write_bytes(data.getvalue())
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
