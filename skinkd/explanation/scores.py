"""Scores of a map: does it lie on the lesion, and does the class depend on the pixels that it marks.

All take one map (H, W), float and not negative, whatever its units. Pixels of equal value have no order: a score is the mean
over all orders of them. A constant map is therefore the score of guessing, and not of the image's first pixels.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from skinkd.explanation.maps import as_float, blurred
from skinkd.explanation.outputs import Output

Map = NDArray[np.floating]
Mask = NDArray[np.bool_]

LOCALISATION = ("pointing", "energy", "iou", "auc")
"""Scores against the lesion's mask; higher is nearer to the mask."""
FAITHFULNESS = ("deletion", "insertion")
"""Scores against the network; lower deletion and higher insertion are better."""


def localisation(found: Map, mask: Mask) -> dict[str, float]:
    """Return the scores of ``LOCALISATION``; NaN for a mask that is empty or the whole image."""
    if not mask.any() or mask.all():
        return dict.fromkeys(LOCALISATION, float("nan"))
    return {
        "pointing": pointing(found, mask),
        "energy": energy_inside(found, mask),
        "iou": equal_area_iou(found, mask),
        "auc": mask_auc(found, mask),
    }


def pointing(found: Map, mask: Mask) -> float:
    """The pointing game: 1 if the largest value lies in the mask, else 0 (Zhang et al., IJCV 2018), without a margin."""
    return float(mask[found == found.max()].mean())


def energy_inside(found: Map, region: Mask) -> float:
    """The share of the map's sum inside a region (Wang et al., CVPRW 2020); of a map without any value, the region's area."""
    total = float(found.sum(dtype=np.float64))
    return float(found[region].sum(dtype=np.float64) / total) if total > 0 else float(region.mean())


def equal_area_iou(found: Map, mask: Mask) -> float:
    """Intersection over union of the mask and as many of the map's largest pixels; ours."""
    area = int(mask.sum())
    least = np.partition(found.ravel(), -area)[-area]
    above, equal = found > least, found == least
    inside = mask[above].sum() + (area - above.sum()) * mask[equal].mean()
    return float(inside / (2 * area - inside))


def mask_auc(found: Map, mask: Mask) -> float:
    """The area under the ROC curve of the pixels: how often a pixel of the lesion is above one of the skin."""
    rank = rankdata(found.ravel())[mask.ravel()]
    n, other = len(rank), mask.size - len(rank)
    return float((rank.sum() - n * (n + 1) / 2) / (n * other))


def deletion_insertion(
    output: Output, image: Tensor, maps: Sequence[Map], *, chosen: int, steps: int, blur: float, batch: int, seed: int
) -> list[tuple[float, float]]:
    """Deletion and insertion of each map (Petsiuk et al., BMVC 2018): areas under the class's probability.

    Deletion replaces pixels of the image by the blurred image, from the map's largest value on; insertion begins with the
    blurred image and restores its pixels in the same order. The order of equal values is drawn.

    Args:
        output: the classifier.
        image: (3, H, W), uint8 or float in [0, 1].
        maps: M maps of the image.
        chosen: index of the class.
        steps: of the curves; each changes the same number of pixels.
        blur: standard deviation of the blur, in image heights.
        batch: images in a pass of the network.
        seed: of the order of equal values.

    Returns:
        Deletion and insertion of each map, between 0 and 1.
    """
    full = as_float(image[None])
    empty = blurred(full, blur)
    rank = torch.from_numpy(np.stack([ranks(found, seed) for found in maps])).to(full.device)
    limits = torch.linspace(0, rank[0].numel(), steps + 1, device=full.device)[1:-1, None, None]
    changed = rank[:, None] < limits  # (M, steps − 1, H, W)
    mixed = torch.stack([changed, ~changed]).flatten(0, 2)[:, None]
    with torch.no_grad():
        probability = [
            output.logits(torch.where(part, empty, full)).float().softmax(dim=1)[:, chosen]
            for part in mixed.split(batch)
        ]
        ends = output.logits(torch.cat([full, empty])).float().softmax(dim=1)[:, chosen]
    inner = torch.cat(probability).reshape(2, len(maps), steps - 1)
    middle = ends.mean()  # the trapezoid rule: each end counts half
    area = (inner.sum(dim=2) + middle) / steps
    return [(float(deletion), float(insertion)) for deletion, insertion in area.T]


def ranks(found: Map, seed: int) -> NDArray[np.int64]:
    """Return the place of each pixel in the order from the largest value to the least, (H, W); equal values in drawn order."""
    drawn = np.random.default_rng(seed).permutation(found.size)
    order = np.lexsort((drawn, -found.ravel()))
    place = np.empty(found.size, np.int64)
    place[order] = np.arange(found.size)
    return place.reshape(found.shape)


def rank_correlation(first: Map, second: Map) -> float:
    """Spearman's correlation of two maps over their pixels; NaN if one of them is constant."""
    a, b = (rankdata(found.ravel()) for found in (first, second))
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def border_regions(image: NDArray[np.uint8], *, dark: float) -> dict[str, Mask]:
    """Return the places of an image beside any lesion: its corners, and its dark vignette if it has one.

    ``corners`` lies outside the largest circle in the image. ``vignette`` is darker than ``dark`` (0 is black, 1 is white) and
    connected to the border.

    Args:
        image: uint8 RGB, (H, W, 3).
        dark: the limit.
    """
    height, width = image.shape[:2]
    y, x = np.ogrid[0.5:height, 0.5:width]  # the middles of the pixels
    regions = {"corners": np.hypot(2 * x / width - 1, 2 * y / height - 1) > 1}
    shade = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) < 255 * dark
    _, part = cv2.connectedComponents(shade.astype(np.uint8))
    border = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
    vignette = np.isin(part, np.setdiff1d(border, [0]))
    return regions | ({"vignette": vignette} if vignette.any() else {})
