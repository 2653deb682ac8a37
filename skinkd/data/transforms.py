"""Augmentation pipelines: albumentations on uint8 images (H, W, 3), seeded from outside."""

import math
import os
import random
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise the import asks the network for a newer version

import albumentations as A
import cv2
import numpy as np

from skinkd.errors import UserError, check_range


class RegionalGamma(A.ImageOnlyTransform):
    """Regional gamma augmentation (RGA): one box of the image, one gamma.

    Of TSS-KD (Liu et al., Neurocomputing 638:130115, 2025); the numbers are from its published code.

    λ = max(b, 1 − b) with b ~ Beta(``beta_alpha``, ``beta_alpha``); the box's sides are sqrt(1 − λ) of the
    image's sides, so it covers at most half of it; its centre is uniform and the box is clipped at the
    border, as in CutMix. Inside it x becomes 255·(x/255)^γ, rounded, γ uniform in ``gamma_limit``. The
    paper's code raises raw bytes to γ, which overflows; scaling to [0, 1] is ours, and is what the paper's
    figure shows.
    """

    def __init__(self, *, beta_alpha: float, gamma_limit: Sequence[float], p: float):
        check_range("RegionalGamma.p", p, 0.0, 1.0)
        super().__init__(p=p)
        low, high = (float(limit) for limit in gamma_limit)
        if not (beta_alpha > 0 and 0 < low <= high):
            raise UserError(
                f"RegionalGamma.beta_alpha={beta_alpha}, gamma_limit=[{low}, {high}] are out of range; they "
                "must be above 0, and the limits in ascending order"
            )
        self.beta_alpha = beta_alpha
        self.gamma_limit = (low, high)

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the box (rows top..bottom, columns left..right, ends excluded) and γ."""
        height, width = params["shape"][:2]
        draw = self.random_generator.beta(self.beta_alpha, self.beta_alpha)
        side = math.sqrt(1 - max(draw, 1 - draw))
        half_height, half_width = int(height * side) // 2, int(width * side) // 2
        row, column = int(self.random_generator.integers(height)), int(self.random_generator.integers(width))
        return {
            "box": (
                max(row - half_height, 0),
                min(row + half_height, height),
                max(column - half_width, 0),
                min(column + half_width, width),
            ),
            "gamma": float(self.random_generator.uniform(*self.gamma_limit)),
        }

    def apply(self, img: np.ndarray, box: tuple[int, int, int, int], gamma: float, **params: Any) -> np.ndarray:
        """Return a copy of ``img`` (uint8) with ``gamma`` applied inside ``box``."""
        top, bottom, left, right = box
        result = img.copy()
        if top < bottom and left < right:
            curve = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
            result[top:bottom, left:right] = curve[img[top:bottom, left:right]]
        return result


class SyntheticHair(A.ImageOnlyTransform):
    """Draw dark curved hairs over the image, as they hide lesions in dermoscopy; ours.

    Each hair is a quadratic Bézier curve between two points on a circle around a random centre. It is drawn antialiased
    and blended, so that it darkens the image.

    Args:
        count_range: least and largest number of hairs.
        length_range: of a hair, in shares of the image's longer side.
        width_range: of a hair, in shares of the image's shorter side; at least one pixel is drawn.
        opacity_range: 0 is invisible, 1 opaque.
        brightness_range: of a hair's colour, 0 to 255.
        p: probability.
    """

    def __init__(
        self,
        *,
        count_range: Sequence[int],
        length_range: Sequence[float],
        width_range: Sequence[float],
        opacity_range: Sequence[float],
        brightness_range: Sequence[int],
        p: float,
    ):
        for name, limits, low, high in (
            ("count_range", count_range, 0, math.inf),
            ("length_range", length_range, 0, math.inf),
            ("width_range", width_range, 0, 1),
            ("opacity_range", opacity_range, 0, 1),
            ("brightness_range", brightness_range, 0, 255),
        ):
            if len(limits) != 2 or not low <= limits[0] <= limits[1] <= high:
                raise UserError(
                    f"SyntheticHair.{name}={list(limits)} is out of range; it must be two numbers in ascending "
                    f"order, at least {low} and at most {high}"
                )
        check_range("SyntheticHair.p", p, 0.0, 1.0)
        super().__init__(p=p)
        self.count_range, self.length_range, self.width_range = count_range, length_range, width_range
        self.opacity_range, self.brightness_range = opacity_range, brightness_range

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the hairs: each its three points (x, y), width in pixels, opacity and brightness."""
        height, width = params["shape"][:2]
        rng = self.random_generator
        hairs = []
        for _ in range(int(rng.integers(self.count_range[0], self.count_range[1] + 1))):
            centre = rng.uniform((0, 0), (width, height))
            half = rng.uniform(*self.length_range) * max(height, width) / 2
            angle, bend = rng.uniform(0, 2 * math.pi), rng.uniform(-0.5, 0.5)
            along = half * np.array([math.cos(angle), math.sin(angle)])
            across = half * bend * np.array([-math.sin(angle), math.cos(angle)])
            points = np.stack([centre - along, centre + 2 * across, centre + along])
            thickness = max(1, round(rng.uniform(*self.width_range) * min(height, width)))
            tone = rng.uniform(*self.brightness_range) * np.array([1.0, 0.85, 0.7])
            hairs.append((points, thickness, float(rng.uniform(*self.opacity_range)), tone))
        return {"hairs": hairs}

    def apply(self, img: np.ndarray, hairs: list[Any], **params: Any) -> np.ndarray:
        """Return a copy of ``img`` (uint8, (H, W, 3)) with the hairs drawn."""
        result = img.astype(np.float32)
        t = np.linspace(0, 1, 24)[:, None]
        for points, thickness, opacity, tone in hairs:
            curve = (1 - t) ** 2 * points[0] + 2 * t * (1 - t) * points[1] + t**2 * points[2]
            mask = np.zeros(img.shape[:2], np.uint8)
            line = np.rint(curve * 16).astype(np.int32)[None]  # four bits below the pixel
            cv2.polylines(mask, line, False, 255, thickness, cv2.LINE_AA, shift=4)
            share = (opacity / 255) * mask[:, :, None].astype(np.float32)
            result += share * (np.minimum(tone.astype(np.float32), result) - result)
        return np.rint(result).astype(np.uint8)


def train_pipeline(transforms: Sequence[Any], *, image_size: int) -> A.Compose:
    """Compose the transforms of ``augment.train``; they must end in ``image_size`` × ``image_size``.

    Raises:
        UserError: an argument that its transform does not know, or images of another size at the end.
    """
    try:
        pipeline = A.Compose(list(transforms), strict=True)
    except ValueError as error:
        raise UserError(f"augment.train: {error}") from error
    # an image that must shrink and an image that must grow; neither is square
    for height, width in ((image_size + 13, 2 * image_size + 7), (image_size - image_size // 4, image_size)):
        seed_pipeline(pipeline, np.random.default_rng(0))
        try:
            result = pipeline(image=np.zeros((height, width, 3), np.uint8))["image"]
        except NotImplementedError as error:
            raise UserError(
                "augment.train has a transform without a method apply; write def apply(self, img, **params) in its class"
            ) from error
        if result.shape != (image_size, image_size, 3) or result.dtype != np.uint8:
            raise UserError(
                f"augment.train turns an image of {height}x{width} into {result.dtype} {result.shape}; its "
                f"last transform that changes the size must give {image_size}x{image_size} "
                "(data.image_size), of type uint8"
            )
    return pipeline


def eval_pipeline(*, image_size: int) -> A.Compose:
    """Return validation's and test's pipeline: shorter side to ``image_size``, then the central square.

    Shrinking averages areas, growing is bilinear; the aspect ratio is kept. Ours.
    """
    shrink = A.SmallestMaxSize(max_size=image_size, interpolation=cv2.INTER_LINEAR, area_for_downscale="image", p=1.0)
    return A.Compose([shrink, A.CenterCrop(height=image_size, width=image_size, p=1.0)], strict=True)


def seed_pipeline(pipeline: A.Compose, rng: np.random.Generator) -> None:
    """Let all transforms of ``pipeline`` draw from the one generator ``rng``.

    ``Compose.set_random_seed`` would not do: in albumentations 2.0.8 it gives each transform a separate generator with
    the same seed. The transforms then decide alike: two flips of probability 0.5 both happen, or neither does.
    """
    pipeline.set_random_state(rng, random.Random(int(rng.integers(2**63))))
