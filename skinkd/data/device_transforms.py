"""Albumentations' transforms as operations on batches of tensors, with the same distribution.

A transform takes images (N, 3, h, w), whole numbers from 0 to 255 in float32, and draws (N, 32), uniform in [0, 1), and
returns images of the same kind: results are rounded where albumentations rounds.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import albumentations as A
import torch
from torch import Tensor

from skinkd.data.transforms import RegionalGamma
from skinkd.errors import UserError

Transform = Callable[[Tensor, Tensor], Tensor]
Resize = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""The first transform of a pipeline: images (N, H, W, 3) uint8, their heights and widths (N,), draws -> (N, 3, h, w)."""

ATTEMPTS = 10  # of albumentations' RandomResizedCrop to draw a box that fits


def translated(pipeline: A.Compose) -> tuple[Resize, list[Transform]]:
    """Return the pipeline's change of size, which comes first, and its other transforms in order.

    Raises:
        UserError: a transform, or an option, that has no translation.
    """
    first, *others = pipeline.transforms
    resize: Resize
    if isinstance(first, A.RandomResizedCrop) and _plain(first):
        resize = RandomResizedCrop(first)
    elif isinstance(first, A.SmallestMaxSize) and others and isinstance(others[0], A.CenterCrop) and _plain(first):
        resize = CentralSquare(first, others.pop(0))
    else:
        raise _untranslated(first)
    return resize, [_translate(one) for one in others]


def _plain(transform: Any) -> bool:
    return transform.p == 1 and transform.area_for_downscale == "image" and transform.interpolation == 1


def _translate(transform: Any) -> Transform:
    simple: dict[type, Callable[[Any], Transform]] = {
        A.HorizontalFlip: lambda one: Flip(one.p, dim=3),
        A.VerticalFlip: lambda one: Flip(one.p, dim=2),
        A.RandomRotate90: lambda one: QuarterTurns(one.p),
        A.ColorJitter: ColorJitter,
    }
    if type(transform) in simple:
        return simple[type(transform)](transform)
    if isinstance(transform, RegionalGamma) and transform.beta_alpha == 1:
        return Gamma(transform)
    raise _untranslated(transform)


def _untranslated(transform: Any) -> UserError:
    return UserError(
        f"data.augment_on=device does not know {type(transform).__name__} of augment.train, or not with these options; use "
        "augment=basic, rga, mskd or none, or data.augment_on=cpu"
    )


class RandomResizedCrop:
    """A random box of the image, resized: of a random share of its area and of a random aspect ratio."""

    def __init__(self, transform: A.RandomResizedCrop):
        self.size, self.scale = transform.size, transform.scale
        self.log_ratio = [math.log(ratio) for ratio in transform.ratio]
        self.ratio = transform.ratio

    def __call__(self, image: Tensor, height: Tensor, width: Tensor, draw: Tensor) -> Tensor:
        """Return (N, 3, h, w)."""
        top, left, rows, columns = self.boxes(height, width, draw)
        return resampled(image, (top, rows), (left, columns), self.size, shrinks=_larger(rows, columns, self.size))

    def boxes(self, height: Tensor, width: Tensor, draw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return top, left, height and width, int64 (N,), of the boxes."""
        area = (height * width).double()[:, None] * _between(draw[:, :ATTEMPTS], self.scale)
        ratio = _between(draw[:, ATTEMPTS : 2 * ATTEMPTS], self.log_ratio).exp()
        columns, rows = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
        fits = (columns > 0) & (columns <= width[:, None]) & (rows > 0) & (rows <= height[:, None])
        first = fits.int().argmax(dim=1, keepdim=True)
        columns, rows = columns.gather(1, first)[:, 0], rows.gather(1, first)[:, 0]
        top = (draw[:, 2 * ATTEMPTS] * (height - rows + 1)).long()
        left = (draw[:, 2 * ATTEMPTS + 1] * (width - columns + 1)).long()
        # none fits: the largest central box of a ratio that is allowed
        narrow, wide = width / height < self.ratio[0], width / height > self.ratio[1]
        all_rows = torch.where(narrow, (width.double() / self.ratio[0]).round().long(), height)
        all_columns = torch.where(wide, (height.double() * self.ratio[1]).round().long(), width)
        any_fits = fits.any(dim=1)
        rows, columns = torch.where(any_fits, rows, all_rows), torch.where(any_fits, columns, all_columns)
        top = torch.where(any_fits, top, (height - all_rows) // 2)
        return top, torch.where(any_fits, left, (width - all_columns) // 2), rows, columns


class CentralSquare:
    """The shorter side to the size of the result, and the central square: what evaluation does."""

    def __init__(self, transform: A.SmallestMaxSize, crop: A.CenterCrop):
        self.side, self.size = transform.max_size, (crop.height, crop.width)

    def __call__(self, image: Tensor, height: Tensor, width: Tensor, draw: Tensor) -> Tensor:
        """Return (N, 3, h, w)."""
        scale = self.side / torch.minimum(height, width).double()
        rows, columns = (height * scale).round().long(), (width * scale).round().long()
        zero = torch.zeros_like(height)
        crop = ((rows, (rows - self.size[0]) // 2), (columns, (columns - self.size[1]) // 2))
        return resampled(image, (zero, height), (zero, width), self.size, shrinks=scale < 1, part=crop)


def resampled(
    image: Tensor,
    vertical: tuple[Tensor, Tensor],
    horizontal: tuple[Tensor, Tensor],
    size: Sequence[int],
    *,
    shrinks: Tensor,
    part: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """Resize boxes of images as OpenCV does: INTER_AREA where it ``shrinks``, else INTER_LINEAR.

    Args:
        image: (N, H, W, 3), uint8.
        vertical: first row and number of rows of each box, int64 (N,).
        horizontal: first column and number of columns.
        size: rows and columns of the result.
        shrinks: bool (N,).
        part: rows of the whole resized box and the first of them to keep, and the same of columns; None: all is kept.

    Returns:
        (N, 3, h, w), whole numbers in float32.
    """
    device = image.device
    whole = [
        (torch.full_like(shrinks, side, dtype=torch.long), torch.zeros_like(shrinks, dtype=torch.long)) for side in size
    ]
    parts = part or whole
    scales = [length.double() / full for (_, length), (full, _) in zip((vertical, horizontal), parts, strict=True)]
    averages = shrinks & (scales[0] >= 1) & (scales[1] >= 1)
    weights = []
    for (start, length), (_, first), scale, side, padded in zip(
        (vertical, horizontal), parts, scales, size, image.shape[1:3], strict=True
    ):
        out = (torch.arange(side, device=device) + first[:, None]).double()[:, :, None]
        place = (torch.arange(padded, device=device) - start[:, None]).double()[:, None, :]
        scale = scale[:, None, None]
        # INTER_LINEAR; and INTER_AREA where one side grows, which OpenCV makes another interpolation of two pixels
        linear = (out + 0.5) * scale - 0.5
        before = (out * scale).floor()
        after = (out + 1) - (before + 1) / scale
        mixed = before + torch.where(after <= 0, 0.0, after - after.floor())
        centre = torch.where(shrinks[:, None, None], mixed, linear)
        centre = centre.clamp(min=0).minimum((length - 1).double()[:, None, None])
        tent = (1 - (place - centre).abs()).clamp(min=0)
        overlap = (torch.minimum((out + 1) * scale, place + 1) - torch.maximum(out * scale, place)).clamp(min=0) / scale
        inside = (place >= 0) & (place < length[:, None, None])
        weights.append(torch.where(averages[:, None, None], overlap, tent).where(inside, 0.0).float())
    rows = torch.bmm(weights[0], image.float().flatten(2)).unflatten(2, image.shape[2:])  # (N, h, W, 3)
    columns = rows.permute(0, 2, 1, 3).flatten(2)  # (N, W, h·3)
    result = torch.bmm(weights[1], columns).unflatten(2, (size[0], 3))  # (N, w, h, 3)
    return (result.permute(0, 3, 2, 1) + 2**-10).round().clamp(0, 255)


class Flip:
    """Turn an image over, with a probability."""

    def __init__(self, p: float, *, dim: int):
        self.p, self.dim = p, dim

    def __call__(self, image: Tensor, draw: Tensor) -> Tensor:
        """Return (N, 3, h, w)."""
        return torch.where(_images(draw[:, 0] < self.p), image.flip(self.dim), image)


class QuarterTurns:
    """Turn a square image by 0, 90, 180 or 270 degrees, with a probability."""

    def __init__(self, p: float):
        self.p = p

    def __call__(self, image: Tensor, draw: Tensor) -> Tensor:
        """Return (N, 3, h, w)."""
        turn = _images(torch.where(draw[:, 0] < self.p, (draw[:, 1] * 4).long(), 0))
        half = torch.where(turn >= 2, image.flip((2, 3)), image)
        return torch.where(turn % 2 == 1, half.rot90(1, (2, 3)), half)


class ColorJitter:
    """Brightness, contrast, saturation and hue, in a random order, with a probability."""

    def __init__(self, transform: A.ColorJitter):
        self.p = transform.p
        self.limits = [transform.brightness, transform.contrast, transform.saturation, transform.hue]

    def __call__(self, image: Tensor, draw: Tensor) -> Tensor:
        """Return (N, 3, h, w)."""
        factor = torch.stack([_between(draw[:, 1 + k], limits) for k, limits in enumerate(self.limits)], dim=1).float()
        order = draw[:, 5:9].argsort(dim=1)
        result = image
        for turn in range(4):
            operation = order[:, turn]
            amount = factor.gather(1, operation[:, None])[:, 0]
            result = self._one(result, operation, amount)
        return torch.where(_images(draw[:, 0] < self.p), result, image)

    def _one(self, image: Tensor, operation: Tensor, amount: Tensor) -> Tensor:
        """Each image by its own operation, counted as in ``limits``: all but the hue are a·x + b·grey + c."""
        grey = luminance(image)
        rest = 1 - amount
        contrast, saturation, hue = operation == 1, operation == 2, operation == 3
        scale = torch.where(hue, 1.0, amount)
        of_grey = torch.where(saturation, rest, 0.0)
        shift = torch.where(contrast, rest * grey.mean(dim=(1, 2, 3)), 0.0)
        changed = image * _images(scale) + grey * _images(of_grey) + _images(shift)
        # albumentations cuts the fraction off, but for the saturation
        changed = torch.where(_images(saturation), changed.round(), changed.floor()).clamp(0, 255)
        turns = any(limit != 0 for limit in self.limits[3])
        return torch.where(_images(hue), turned_hue(image, amount), changed) if turns else changed


def luminance(image: Tensor) -> Tensor:
    """Grey value (N, 1, h, w), rounded, of RGB."""
    red, green, blue = image.split(1, dim=1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).round()


def turned_hue(image: Tensor, amount: Tensor) -> Tensor:
    """Add ``amount`` (N,) of a whole turn to the hue, as OpenCV's 8-bit HSV has it: a hue is a whole number below 180."""
    red, green, blue = image.split(1, dim=1)
    value, low = image.amax(dim=1, keepdim=True), image.amin(dim=1, keepdim=True)
    spread = value - low
    divisor = spread.clamp(min=1)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = (30 * hue).round() % 180
    saturation = (255 * spread / value.clamp(min=1)).round() / 255
    hue = (hue + 180 * _images(amount)).remainder(180).floor() / 30
    channels = []
    for shift in (5, 3, 1):
        place = (shift + hue) % 6
        channels.append(value - value * saturation * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.cat(channels, dim=1).round()


class Gamma:
    """Regional gamma augmentation: :class:`skinkd.data.transforms.RegionalGamma`, with β = 1."""

    def __init__(self, transform: RegionalGamma):
        self.p, self.limits = transform.p, transform.gamma_limit

    def __call__(self, image: Tensor, draw: Tensor) -> Tensor:
        """Return (N, 3, h, w)."""
        inside: Tensor = _images(draw[:, 0] < self.p)
        side = (1 - torch.maximum(draw[:, 1], 1 - draw[:, 1])).sqrt()
        for dim, number in ((2, 2), (3, 3)):
            length = image.shape[dim]
            half, centre = (length * side).long() // 2, (draw[:, number] * length).long()
            place = torch.arange(length, device=image.device).view([-1 if k == dim else 1 for k in range(4)])
            inside = inside & (place >= _images(centre - half)) & (place < _images(centre + half))
        gamma = _images(_between(draw[:, 4], self.limits).float())
        return torch.where(inside, (255 * (image / 255) ** gamma).round(), image)


def _between(draw: Tensor, limits: Sequence[float]) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * draw


def _images(value: Tensor) -> Tensor:
    return value[:, None, None, None]


def _larger(rows: Tensor, columns: Tensor, size: Sequence[int]) -> Tensor:
    return (rows > size[0]) | (columns > size[1])
