"""Five ways to ask which pixels speak for a class: each from images and classes to maps.

A map is float32, (B, H, W), of the images' size, and not negative: it keeps what speaks for the class, in units of its
method. Removed pixels are replaced by a blurred copy of the image, never by black: black is evidence for a lesion here.
Grad-CAM, integrated gradients, occlusion and LIME are captum's. Score-CAM, and LIME's ridge regression, are ours.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerGradCam, Lime, Occlusion
from skimage.segmentation import slic
from torch import Tensor
from torch.nn import functional as F

from skinkd.errors import UserError
from skinkd.explanation.outputs import Layer, Output, tapped

Settings = Mapping[str, Any]


def grad_cam(output: Output, images: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM: the channels of a feature map, weighted by the class logit's mean gradient (Selvaraju et al., ICCV 2017).

    Args:
        output: the classifier to explain.
        images: (B, 3, H, W), uint8 or float in [0, 1].
        classes: index of the class to explain for each image, (B,).

    Returns:
        Maps (B, H, W), float32, not negative.

    Raises:
        UserError: the output has no layer.
    """
    layer = _layer_of(output, "gradcam")
    with tapped(layer) as tap:
        found = LayerGradCam(output.logits, tap).attribute(as_float(images), target=classes, relu_attributions=True)
    return _enlarged(found, images)[:, 0]


def score_cam(output: Output, images: Tensor, classes: Tensor, *, channels: int, blur: float, batch: int) -> Tensor:
    """Score-CAM: the channels of a feature map, weighted by the class's logit behind each (Wang et al., CVPRW 2020).

    α = softmax over channels of f(x·m + b·(1 − m)) − f(b), with the logit f, the channel m scaled to [0, 1], and the blurred
    image b. The blurred image in place of black, and the limit on the channels, are ours.

    Args:
        output: the classifier to explain.
        images: (B, 3, H, W), uint8 or float in [0, 1].
        classes: index of the class to explain for each image, (B,).
        channels: most channels to use: those with the largest range, for each image.
        blur: standard deviation of the blur, in image heights.
        batch: images in a pass of the network.

    Returns:
        Maps (B, H, W), float32, not negative.

    Raises:
        UserError: the output has no layer.
    """
    layer = _layer_of(output, "scorecam")
    images = as_float(images)
    without = blurred(images, blur)
    kept: list[Tensor] = []
    with torch.no_grad():
        with tapped(layer) as tap:
            handle = tap.register_forward_hook(lambda _module, _given, value: kept.append(value))
            base = output.logits(without)
            kept.clear()
            output.logits(images)
            handle.remove()
        maps = []
        for image, other, cells, chosen, start in zip(images, without, kept[0], classes, base, strict=True):
            reach = cells.amax(dim=(1, 2)) - cells.amin(dim=(1, 2))
            largest = reach.topk(min(channels, len(cells))).indices
            masks = _enlarged(_scaled(cells[largest])[:, None], images)
            mixed = image * masks + other * (1 - masks)
            gain = torch.cat([output.logits(part)[:, chosen] for part in mixed.split(batch)]) - start[chosen]
            cam = (gain.softmax(dim=0)[:, None, None] * cells[largest]).sum(dim=0).relu()
            maps.append(_enlarged(cam[None, None], images)[0, 0])
    return torch.stack(maps).float()


def integrated_gradients(
    output: Output, images: Tensor, classes: Tensor, *, steps: int, blur: float, batch: int
) -> Tensor:
    """Integrated gradients from the blurred image to the image (Sundararajan et al., ICML 2017), summed over the colours.

    The sum over colours keeps its sign and only its positive part stays. The absolute value, which is often shown instead,
    cannot tell evidence for a class from evidence against it.

    Args:
        output: the classifier to explain.
        images: (B, 3, H, W), uint8 or float in [0, 1].
        classes: index of the class to explain for each image, (B,).
        steps: points on the path.
        blur: standard deviation of the blur, in image heights.
        batch: images in a pass of the network.

    Returns:
        Maps (B, H, W), float32, not negative.
    """
    images = as_float(images)
    found = IntegratedGradients(output.logits).attribute(
        images,
        baselines=blurred(images, blur),
        target=classes,
        n_steps=steps,
        internal_batch_size=max(batch, len(images)),
    )
    return found.sum(dim=1).relu().float().detach()


def occlusion(
    output: Output, images: Tensor, classes: Tensor, *, window: float, stride: float, blur: float, batch: int
) -> Tensor:
    """Occlusion: how far the class's logit falls where a window slides over the image (Zeiler and Fergus, ECCV 2014).

    Args:
        output: the classifier to explain.
        images: (B, 3, H, W), uint8 or float in [0, 1].
        classes: index of the class to explain for each image, (B,).
        window: side of the window, in image heights.
        stride: distance between two windows, in image heights.
        blur: standard deviation of the blur that fills the window, in image heights.
        batch: images in a pass of the network.

    Returns:
        Maps (B, H, W), float32, not negative: the mean fall over the windows at each pixel.
    """
    images = as_float(images)
    side, step = (max(1, round(share * images.shape[2])) for share in (window, stride))
    with torch.no_grad():
        found = Occlusion(output.logits).attribute(
            images,
            sliding_window_shapes=(3, side, side),
            strides=(3, step, step),
            baselines=blurred(images, blur),
            target=classes,
            perturbations_per_eval=max(1, batch // len(images)),
        )
    return found.mean(dim=1).relu().float()


def lime(
    output: Output,
    images: Tensor,
    classes: Tensor,
    *,
    samples: int,
    superpixels: int,
    compactness: float,
    kernel_width: float,
    ridge: float,
    blur: float,
    batch: int,
    seed: int,
) -> Tensor:
    """LIME: weights of superpixels in a linear model of the class's logit (Ribeiro et al., KDD 2016).

    The samples are weighted by exp(−d²/w²), with the cosine distance d between the superpixels that stay and all of them.

    Args:
        output: the classifier to explain.
        images: (B, 3, H, W), uint8 or float in [0, 1].
        classes: index of the class to explain for each image, (B,).
        samples: images with removed superpixels.
        superpixels: about so many superpixels, by SLIC of scikit-image; one more setting of SLIC is ``compactness``.
        compactness: SLIC's weight of distance against colour.
        kernel_width: w.
        ridge: penalty on the squared weights.
        blur: standard deviation of the blur that fills removed superpixels, in image heights.
        batch: images in a pass of the network.
        seed: of the draws, the same for each image, so that a map does not depend on the batch.

    Returns:
        Maps (B, H, W), float32, not negative.
    """
    images = as_float(images)
    without = blurred(images, blur)

    def nearness(_image: Tensor, _changed: Tensor, stays: Tensor, **_: Any) -> float:
        distance = 1 - float(stays.float().mean().sqrt())
        return float(np.exp(-((distance / kernel_width) ** 2)))

    method = Lime(output.logits, interpretable_model=RidgeRegression(ridge), similarity_func=nearness)
    maps = []
    for image, other, chosen in zip(images, without, classes, strict=True):
        regions = superpixel_numbers(image, count=superpixels, compactness=compactness)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found = method.attribute(
                image[None],
                baselines=other[None],
                target=int(chosen),
                feature_mask=regions[None, None].expand(1, 3, -1, -1),
                n_samples=samples,
                perturbations_per_eval=batch,
            )
        maps.append(found[0, 0].relu())
    return torch.stack(maps).float()


class RidgeRegression:
    """Weighted least squares with an intercept and a penalty on the squared weights, in the shape that captum's LIME fits."""

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty
        self.weights = torch.zeros(0)

    def fit(self, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Fit the weights to features (N, D), targets (N,) and sample weights (N,), given as one batch or several."""
        x, y, weight = (torch.cat(parts).double() for parts in zip(*batches, strict=True))
        share = weight / weight.sum()
        x, y = x - share @ x, y - share @ y  # an intercept without penalty
        gram = (x * weight[:, None]).T @ x + self.penalty * torch.eye(x.shape[1], dtype=x.dtype)
        self.weights = torch.linalg.solve(gram, (x * weight[:, None]).T @ y).float()

    def representation(self) -> Tensor:
        """The weights, (D,)."""
        return self.weights


METHODS: dict[str, Callable[..., Tensor]] = {
    "gradcam": grad_cam,
    "scorecam": score_cam,
    "ig": integrated_gradients,
    "occlusion": occlusion,
    "lime": lime,
}
"""The methods by the names of the configuration."""

NEED_LAYER = ("gradcam", "scorecam")


def methods_for(output: Output, methods: Iterable[str]) -> list[str]:
    """Return those of the methods that can explain the output: without a layer, only those that change the image."""
    return [name for name in methods if output.layer is not None or name not in NEED_LAYER]


def make_maps(name: str, output: Output, images: Tensor, classes: Tensor, settings: Settings) -> Tensor:
    """Return the maps of a method with its settings from ``conf/explain.yaml``, (B, H, W)."""
    return METHODS[name](output, images, classes, **settings[name])


def as_float(images: Tensor) -> Tensor:
    """Return images as float32 in [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def blurred(images: Tensor, deviation: float) -> Tensor:
    """Return images (B, 3, H, W) under a Gaussian blur whose weights add up to 1 at the border too.

    Args:
        images: float.
        deviation: standard deviation, in image heights, above 0.
    """
    height, width = images.shape[2:]

    def weights(length: int) -> Tensor:
        place = torch.arange(length, dtype=torch.float32, device=images.device)
        bell = torch.exp(-((place[:, None] - place) ** 2) / (2 * (deviation * height) ** 2))
        return bell / bell.sum(dim=1, keepdim=True)

    return weights(height) @ images.float() @ weights(width).T


def superpixel_numbers(image: Tensor, *, count: int, compactness: float) -> Tensor:
    """Return the superpixel of each pixel of an image (3, H, W), numbered from 0, int64 (H, W)."""
    pixels = image.permute(1, 2, 0).cpu().numpy().astype(np.float64)
    regions = slic(pixels, n_segments=count, compactness=compactness)
    return torch.from_numpy(np.unique(regions, return_inverse=True)[1].reshape(regions.shape)).to(image.device)


def _layer_of(output: Output, method: str) -> Layer:
    if output.layer is None:
        raise UserError(
            f"{method} needs a feature map, and no single one leads to the output {output.name!r}; choose "
            "explain.methods=[ig,occlusion,lime]"
        )
    return output.layer


def _enlarged(maps: Tensor, images: Tensor) -> Tensor:
    """Return maps (N, 1, h, w) at the images' size, bilinear."""
    return F.interpolate(maps.float().detach(), size=images.shape[2:], mode="bilinear", align_corners=False)


def _scaled(maps: Tensor) -> Tensor:
    """Return maps (N, h, w) scaled to [0, 1] each; a constant map becomes 0."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)
