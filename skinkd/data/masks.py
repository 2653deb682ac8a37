"""Masks beside images: of the lesion, and of what else was drawn into an embedded image."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import albumentations as A
import cv2
import numpy as np

from skinkd.data.files import decode, read_image, read_regular
from skinkd.data.source import Source
from skinkd.errors import UserError


class Masked(NamedTuple):
    """An image and its masks.

    Attributes:
        image: uint8 RGB, (H, W, 3).
        lesion: bool, (H, W); None: unknown.
        artefacts: by kind, bool (H, W): what is known to be drawn into the image beside the lesion.
    """

    image: np.ndarray
    lesion: np.ndarray | None
    artefacts: Mapping[str, np.ndarray]


def read_masked(path: str, source: Source | None) -> Masked:
    """Read an image with the masks that its dataset has.

    Args:
        path: of the image.
        source: of its dataset; None: the dataset has no masks.

    Raises:
        UserError: a file cannot be read, or a mask has another size than its image.
    """
    image = read_image(path)
    find = None if source is None else source.lesion_mask
    lesion = None if find is None else find(Path(path))
    kinds = source.artefact_masks(Path(path)) if source is not None and source.artefact_masks is not None else {}
    return Masked(
        image,
        None if lesion is None else read_mask(lesion, image.shape[:2]),
        {kind: read_mask(file, image.shape[:2]) for kind, file in kinds.items()},
    )


def read_mask(path: Path, size: tuple[int, ...] | None) -> np.ndarray:
    """Return a mask, bool (H, W).

    Args:
        path: of the mask.
        size: height and width of its image; None: unknown.

    Raises:
        UserError: the file cannot be read, or has another size than its image.
    """
    try:
        mask = decode(read_regular(path), cv2.IMREAD_GRAYSCALE)
    except OSError as error:
        raise UserError(f"the mask {path} cannot be read ({error.strerror}); restore the file") from None
    if mask is None:
        raise UserError(f"the mask {path} is no image; restore the file")
    if size is not None and mask.shape != size:
        raise UserError(
            f"the mask {path} has {mask.shape[0]}×{mask.shape[1]} pixels, and its image {size[0]}×{size[1]}; restore the file"
        )
    return mask > 0


def prepared(masked: Masked, pipeline: A.Compose) -> Masked:
    """Return image and masks under a pipeline of ``transforms.eval_pipeline``; masks are resized to the nearest pixel."""
    names = [name for name, mask in (("", masked.lesion), *masked.artefacts.items()) if mask is not None]
    stack = [mask.astype(np.uint8) for mask in (masked.lesion, *masked.artefacts.values()) if mask is not None]
    if not stack:
        return Masked(pipeline(image=masked.image)["image"], None, {})
    done = pipeline(image=masked.image, masks=stack)
    masks = {name: mask > 0 for name, mask in zip(names, done["masks"], strict=True)}
    return Masked(done["image"], masks.pop("", None), masks)
