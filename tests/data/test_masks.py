"""Masks follow their images through every step, and a mask that does not fit its image is refused."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from skinkd.data import ham10000, synthetic
from skinkd.data.masks import prepared, read_mask, read_masked
from skinkd.data.source import Source
from skinkd.data.transforms import eval_pipeline
from skinkd.errors import UserError


@pytest.fixture(scope="module")
def images(synthetic_folder: Path) -> list[Path]:
    return sorted(synthetic_folder.glob("HAM10000_images_part_*/*.jpg"))


def test_a_folder_in_ham10000s_layout_has_masks_wherever_its_images_lie(tmp_path: Path) -> None:
    for folder in ("HAM10000_images_part_1", "images", ""):
        image = tmp_path / folder / "ISIC_1.jpg"
        assert ham10000.lesion_mask(image) is None
    (tmp_path / "HAM10000_segmentations_lesion_tschandl").mkdir()
    mask = tmp_path / "HAM10000_segmentations_lesion_tschandl" / "ISIC_1_segmentation.png"
    mask.write_bytes(b"")
    for folder in ("HAM10000_images_part_1", "images", ""):
        assert ham10000.lesion_mask(tmp_path / folder / "ISIC_1.jpg") == mask
        assert ham10000.lesion_mask(tmp_path / folder / "ISIC_2.jpg") is None


def test_the_masks_of_the_embedded_images_are_read_with_them(images: list[Path]) -> None:
    kinds = set()
    for path in images[:40]:
        masked = read_masked(str(path), synthetic.SOURCE)
        assert masked.lesion is not None and masked.lesion.dtype == bool
        for mask in (masked.lesion, *masked.artefacts.values()):
            assert mask.shape == masked.image.shape[:2] and mask.any() and not mask.all()
        kinds |= set(masked.artefacts)
    assert "hair" in kinds
    for source in (None, Source(licence="")):
        plain = read_masked(str(images[0]), source)
        assert (
            plain.lesion is None
            and plain.artefacts == {}
            and np.array_equal(plain.image, read_masked(str(images[0]), synthetic.SOURCE).image)
        )


@pytest.mark.parametrize("size", [16, 32, 48])
def test_masks_go_through_the_pipeline_of_their_image(images: list[Path], size: int) -> None:
    """A mask drawn into the image as white on black must be found where the prepared mask is."""
    for path in images[:6]:
        masked = read_masked(str(path), synthetic.SOURCE)
        assert masked.lesion is not None
        painted = masked._replace(image=np.repeat(masked.lesion[..., None] * np.uint8(255), 3, axis=2))
        done = prepared(painted, eval_pipeline(image_size=size))
        assert done.lesion is not None and done.lesion.shape == done.image.shape[:2] == (size, size)
        assert set(done.artefacts) == set(masked.artefacts)
        white = done.image[..., 0]  # the share of the lesion in each pixel; the nearest pixel is one of those averaged
        assert (white == 255).any() and done.lesion[white == 255].all() and not done.lesion[white == 0].any()
        image = prepared(masked, eval_pipeline(image_size=size)).image
        assert np.array_equal(image, eval_pipeline(image_size=size)(image=masked.image)["image"])
    assert prepared(read_masked(str(images[0]), None), eval_pipeline(image_size=size)).lesion is None


def test_a_mask_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    cv2.imwrite(str(good), np.eye(4, dtype=np.uint8) * 255)
    assert np.array_equal(read_mask(good, (4, 4)), np.eye(4, dtype=bool))
    (tmp_path / "broken.png").write_bytes(good.read_bytes()[:40])
    os.mkfifo(tmp_path / "pipe.png")
    for name, size, words in (
        ("good.png", (4, 5), "has 4×4 pixels, and its image 4×5"),
        ("broken.png", (4, 4), "is no image"),
        ("missing.png", (4, 4), "cannot be read .No such file"),
        ("pipe.png", (4, 4), "cannot be read .it is a pipe"),
    ):
        with pytest.raises(UserError, match=words):
            read_mask(tmp_path / name, size)
