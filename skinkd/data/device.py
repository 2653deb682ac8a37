"""Augmentation of whole batches on the device that trains: the images lie there, and only their numbers are loaded.

The pipeline is the one of ``augment.train``, translated transform by transform to operations on tensors. A sample draws from
a hash of (seed, epoch, image, view), so it depends neither on the batch that it is in nor on the number of processes. The
draws are not those of the loading processes: the distribution is the same, a single sample is another.
"""

from collections.abc import Callable, Sequence

import albumentations as A
import numpy as np
import torch
from torch import Tensor

from skinkd.data.device_transforms import Resize, Transform, translated
from skinkd.data.files import read_image
from skinkd.errors import UserError, check_choice

VIEWS = {"one": 1, "two": 2, "four_rotations": 4}
"""Copies of an image in a sample, by the names of :mod:`skinkd.data.views`."""

_DRAWS = 32  # numbers that one transform may draw for one copy


class DeviceAugmentation:
    """Gives augmented samples by the images' indices.

    Args:
        paths: of the images, read once, at the first call.
        pipeline: albumentations pipeline (:func:`skinkd.data.transforms.train_pipeline`).
        views: what a sample is, a name of :data:`VIEWS`.
        seed: of the augmentation.
        compiled: fuse the operations by ``torch.compile``.

    Raises:
        UserError: a transform of the pipeline has no translation.
    """

    def __init__(self, paths: Sequence[str], *, pipeline: A.Compose, views: str, seed: int, compiled: bool):
        self.paths = paths
        self.views = check_choice("views", views, VIEWS)
        self.seed = seed
        self.resize, self.transforms = translated(pipeline)
        self._images: DeviceImages | None = None
        self._augment: Callable[..., Tensor] = augmented
        if compiled:
            self._augment = torch.compile(augmented, dynamic=False)

    @torch.no_grad()
    def __call__(self, index: Tensor, epoch: int) -> Tensor:
        """Return the samples (B, V, 3, h, w), uint8, of images (B,) in an epoch, on the device of ``index``."""
        if self._images is None:
            self._images = DeviceImages(self.paths, index.device)
        # a tensor, since a number would be compiled in
        start = torch.full((), _hashed_int(self.seed, epoch), device=index.device)
        return self._augment(self._images, index, start, self.views, self.resize, self.transforms)


class DeviceImages:
    """Images of any sizes on a device, one after the other.

    Attributes:
        pixels: uint8 RGB, (all pixels, 3).
        first: place of each image's first pixel, int64 (N,).
        shape: height and width of each, int64 (N, 2).
        side: of the square that holds any of them, turned or not.
    """

    def __init__(self, paths: Sequence[str], device: torch.device):
        images = [read_image(path) for path in paths]
        shapes = np.array([image.shape[:2] for image in images], np.int64)
        flat = np.concatenate([image.reshape(-1, 3) for image in images])
        if device.type == "cuda" and flat.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
            raise UserError(
                f"data.augment_on=device keeps the training images on the device, and these {flat.nbytes / 2**30:.1f} GiB are "
                "more than half of its free memory; set a smaller data.cache_size, or data.augment_on=cpu"
            )
        self.pixels = torch.from_numpy(flat).to(device)
        self.first = torch.from_numpy(np.concatenate([[0], shapes.prod(axis=1).cumsum()[:-1]])).to(device)
        self.shape = torch.from_numpy(shapes).to(device)
        self.height, self.width = int(shapes[:, 0].max()), int(shapes[:, 1].max())

    def take(self, index: Tensor, flipped: Tensor | None, quarter: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return images (N, H, W, 3), uint8, each in the upper left corner, and their heights and widths, (N,).

        Args:
            index: int64 (N,).
            flipped: bool (N,), whether to flip the image from left to right first, or None: none.
            quarter: int64 (N,), then to turn it counter-clockwise by so many right angles, or None: none.
        """
        height, width = self.shape[index].unbind(1)
        rows, columns = self.height, self.width
        turned_height, turned_width = height, width
        if quarter is not None:
            rows = columns = max(rows, columns)
            odd = quarter % 2 == 1
            turned_height, turned_width = torch.where(odd, width, height), torch.where(odd, height, width)
        y = torch.arange(rows, device=index.device)[None, :, None].clamp(max=turned_height[:, None, None] - 1)
        x = torch.arange(columns, device=index.device)[None, None, :].clamp(max=turned_width[:, None, None] - 1)
        bottom, right = height[:, None, None] - 1, width[:, None, None] - 1
        if quarter is not None:
            turn = quarter[:, None, None]
            y, x = (
                torch.where(turn == 0, y, torch.where(turn == 1, x, torch.where(turn == 2, bottom - y, bottom - x))),
                torch.where(turn == 0, x, torch.where(turn == 1, right - y, torch.where(turn == 2, right - x, y))),
            )
        if flipped is not None:
            x = torch.where(flipped[:, None, None], right - x, x)
        place = self.first[index][:, None, None] + y * (right + 1) + x
        return self.pixels[place], turned_height, turned_width


def augmented(
    images: DeviceImages, index: Tensor, start: Tensor, views: str, resize: Resize, transforms: Sequence[Transform]
) -> Tensor:
    """Return samples (B, V, 3, h, w), uint8, of images (B,); ``start`` is the hash of seed and epoch."""
    count = VIEWS[views]
    of_image = _hashed(_hashed(start) + index)
    view = torch.arange(count, device=index.device).repeat(len(index))
    key = _hashed(of_image.repeat_interleave(count) + view + 1)
    flipped = quarter = None
    if views == "four_rotations":
        flipped = (uniform(of_image, 0, 1)[:, 0] < 0.5).repeat_interleave(count)
        quarter = view
    pixels, height, width = images.take(index.repeat_interleave(count), flipped, quarter)
    result = resize(pixels, height, width, uniform(key, 0, _DRAWS))
    for number, transform in enumerate(transforms, start=1):
        result = transform(result, uniform(key, number * _DRAWS, _DRAWS))
    return result.to(torch.uint8).unflatten(0, (len(index), count))


def uniform(key: Tensor, first: int, count: int) -> Tensor:
    """Return numbers in [0, 1), float64 (N, count): draws ``first`` and so on of each key (N,)."""
    step = torch.arange(first + 1, first + count + 1, device=key.device)
    bits = _hashed(key[:, None] + step * _GOLDEN)
    return ((bits >> 11) & (2**53 - 1)).double() * 2.0**-53


# SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) in signed integers, whose products wrap around alike
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def _hashed(value: Tensor) -> Tensor:
    value = value + _GOLDEN
    value = (value ^ _shifted(value, 30)) * _FACTORS[0]
    value = (value ^ _shifted(value, 27)) * _FACTORS[1]
    return value ^ _shifted(value, 31)


def _shifted(value: Tensor, bits: int) -> Tensor:
    return (value >> bits) & (2 ** (64 - bits) - 1)


def _hashed_int(seed: int, epoch: int) -> int:
    return int((_hashed(_hashed(torch.tensor(seed)) + epoch)).item())
