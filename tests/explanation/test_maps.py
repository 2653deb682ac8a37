"""The five methods against plain loops, on networks whose right map is known."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor, nn
from torch.nn import functional as F

from skinkd.errors import UserError
from skinkd.explanation import maps
from skinkd.explanation.outputs import Layer, Output, outputs_of
from skinkd.models.hybrid import plain_backbone

SIZE, CLASSES = 16, 3
LIME = {"samples": 400, "superpixels": 12, "compactness": 10.0, "kernel_width": 0.25, "ridge": 1e-3, "seed": 0}


class Pixels(nn.Module):
    """Logits that are linear in the pixels: the right explanation is weight × (image − baseline)."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.randn(CLASSES, 3, SIZE, SIZE, generator=generator)

    def forward(self, image: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", image, self.weight)


class Pooled(nn.Module):
    """A convolution, global average pooling, a linear layer: its Grad-CAM is the CAM of Zhou et al. over the cells."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.linear = nn.Linear(6, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.conv(image).mean(dim=(2, 3)))


@pytest.fixture
def images() -> Tensor:
    """Four images of smooth colours, in which SLIC finds several superpixels."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(4, 3, 4, 4, generator=generator) * 255
    return F.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear").to(torch.uint8)


@pytest.fixture
def classes() -> Tensor:
    return torch.tensor([2, 0, 1, 2])


def linear() -> Output:
    return Output("final", Pixels(), None)


def pooled() -> Output:
    torch.manual_seed(0)
    network = Pooled().eval()
    return Output("final", network, Layer("conv", network.conv, (SIZE // 2, SIZE // 2)))


def test_grad_cam_of_a_pooled_map_is_its_class_activation_map(images: Tensor, classes: Tensor) -> None:
    output = pooled()
    network = output.logits
    assert isinstance(network, Pooled)
    cells = network.conv(images.float() / 255)
    for b, chosen in enumerate(classes):
        cam = sum(network.linear.weight[chosen, k] * cells[b, k] for k in range(6)) / cells[0, 0].numel()
        expected = F.interpolate(cam.relu()[None, None], size=(SIZE, SIZE), mode="bilinear")[0, 0]
        found = maps.grad_cam(output, images, classes)[b]
        torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_score_cam_is_the_loop_of_the_paper_with_a_blurred_base(images: Tensor, classes: Tensor, batch: int) -> None:
    output = pooled()
    found = maps.score_cam(output, images, classes, channels=4, blur=0.2, batch=batch)
    network = output.logits
    assert isinstance(network, Pooled)
    x = images.float() / 255
    base = maps.blurred(x, 0.2)
    with torch.no_grad():
        for b, chosen in enumerate(classes):
            cells = network.conv(x[b : b + 1])[0]
            ranges = [float(cells[k].max() - cells[k].min()) for k in range(6)]
            largest = sorted(range(6), key=lambda k: -ranges[k])[:4]
            gains = []
            for k in largest:
                mask = (cells[k] - cells[k].min()) / ranges[k]
                mask = F.interpolate(mask[None, None], size=(SIZE, SIZE), mode="bilinear")[0, 0]
                mixed = x[b] * mask + base[b] * (1 - mask)
                gains.append(network(mixed[None])[0, chosen] - network(base[b : b + 1])[0, chosen])
            weights = torch.stack(gains).softmax(dim=0)
            cam = sum(weight * cells[k] for weight, k in zip(weights, largest, strict=True)).relu()
            expected = F.interpolate(cam[None, None], size=(SIZE, SIZE), mode="bilinear")[0, 0]
            torch.testing.assert_close(found[b], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch", [4, 7, 256])
def test_integrated_gradients_of_a_linear_network_are_its_terms(images: Tensor, classes: Tensor, batch: int) -> None:
    output = linear()
    x = images.float() / 255
    terms = output.logits.weight[classes] * (x - maps.blurred(x, 0.2))  # type: ignore[index]
    found = maps.integrated_gradients(output, images, classes, steps=8, blur=0.2, batch=batch)
    torch.testing.assert_close(found, terms.sum(dim=1).relu(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 16, 256])
def test_occlusion_is_the_mean_fall_over_the_windows_of_a_pixel(images: Tensor, classes: Tensor, batch: int) -> None:
    output = linear()
    x = images.float() / 255
    base = maps.blurred(x, 0.2)
    found = maps.occlusion(output, images, classes, window=0.25, stride=0.125, blur=0.2, batch=batch)
    for b, chosen in enumerate(classes):
        total, times = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
        for top in range(0, SIZE - 3, 2):
            for left in range(0, SIZE - 3, 2):
                changed = x[b].clone()
                changed[:, top : top + 4, left : left + 4] = base[b][:, top : top + 4, left : left + 4]
                fall = output.logits(x[b : b + 1])[0, chosen] - output.logits(changed[None])[0, chosen]
                total[top : top + 4, left : left + 4] += float(fall)
                times[top : top + 4, left : left + 4] += 1
        np.testing.assert_allclose(found[b].numpy(), np.maximum(total / times, 0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shade", [0.0, 0.5, 1.0])
def test_an_image_of_one_colour_has_superpixels_too(shade: float) -> None:
    regions = maps.superpixel_numbers(torch.full((3, SIZE, SIZE), shade), count=12, compactness=10.0)
    assert regions.shape == (SIZE, SIZE) and regions.unique().tolist() == list(range(int(regions.max()) + 1))
    assert regions.max() > 3, "a grid, more or less"


def test_lime_finds_the_weights_of_a_network_that_is_linear_in_the_superpixels(images: Tensor, classes: Tensor) -> None:
    output = linear()
    x = images.float() / 255
    terms = (output.logits.weight[classes] * (x - maps.blurred(x, 0.2))).sum(dim=1)  # type: ignore[index]
    found = maps.lime(output, images, classes, blur=0.2, batch=50, **LIME)
    for b in range(len(images)):
        regions = maps.superpixel_numbers(x[b], count=12, compactness=10.0)
        assert regions.unique().tolist() == list(range(int(regions.max()) + 1)) and int(regions.max()) > 0
        expected = torch.zeros(SIZE, SIZE)
        for number in regions.unique():
            expected[regions == number] = terms[b][regions == number].sum().relu()
        torch.testing.assert_close(found[b], expected, rtol=0.05, atol=0.05)


def test_lime_draws_the_same_for_an_image_alone_and_in_a_batch(images: Tensor, classes: Tensor) -> None:
    before = torch.get_rng_state()
    together = maps.lime(linear(), images, classes, blur=0.2, batch=50, **LIME)
    alone = maps.lime(linear(), images[2:3], classes[2:3], blur=0.2, batch=7, **LIME)
    torch.testing.assert_close(together[2:3], alone, rtol=1e-3, atol=1e-4)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_ridge_regression_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    x, y, weight = rng.integers(0, 2, (50, 6)), rng.normal(size=50), rng.uniform(0.1, 1, 50)
    ours = maps.RidgeRegression(0.7)
    parts = [slice(0, 20), slice(20, 50)]
    ours.fit([tuple(torch.tensor(part[rows]).float() for part in (x, y, weight)) for rows in parts])  # type: ignore[misc]
    theirs = Ridge(alpha=0.7).fit(x, y, sample_weight=weight)
    np.testing.assert_allclose(ours.representation().numpy(), theirs.coef_, rtol=1e-4, atol=1e-5)


def test_a_blur_is_the_mean_of_the_pixels_weighted_by_a_gaussian(images: Tensor) -> None:
    x = (images.float() / 255)[:, :, :, :10]  # 16 by 10
    found = maps.blurred(x, 0.2)
    for row, column in ((0, 0), (7, 5), (15, 9)):
        weight = [
            [np.exp(-((r - row) ** 2 + (c - column) ** 2) / (2 * (0.2 * 16) ** 2)) for c in range(10)]
            for r in range(16)
        ]
        expected = (x.numpy() * weight).sum(axis=(2, 3)) / np.sum(weight)
        np.testing.assert_allclose(found[:, :, row, column].numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["test_resnet.r160_in1k", "test_vit"])
def test_every_method_gives_maps_of_the_image(name: str) -> None:
    torch.manual_seed(0)
    network = plain_backbone(
        name, num_classes=CLASSES, image_size=64, pretrained=False, weights=None, options={}
    ).eval()
    (output,) = outputs_of(network, image_size=64, cells=7)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    settings = {
        "gradcam": {},
        "scorecam": {"channels": 8, "blur": 0.15, "batch": 16},
        "ig": {"steps": 4, "blur": 0.15, "batch": 16},
        "occlusion": {"window": 0.25, "stride": 0.25, "blur": 0.15, "batch": 16},
        "lime": LIME | {"samples": 20, "blur": 0.15, "batch": 16},
    }
    assert set(settings) == set(maps.METHODS)
    for method in maps.METHODS:
        found = maps.make_maps(method, output, images, torch.tensor([0, 2]), settings)
        assert found.shape == (2, 64, 64) and found.dtype == torch.float32 and not found.requires_grad
        assert float(found.min()) >= 0 and torch.isfinite(found).all()
        again = maps.make_maps(method, output, images[1:], torch.tensor([2]), settings)
        torch.testing.assert_close(again[0], found[1], rtol=1e-3, atol=1e-4)


def test_a_method_that_needs_a_map_says_so(images: Tensor, classes: Tensor) -> None:
    with pytest.raises(UserError, match="gradcam needs a feature map"):
        maps.grad_cam(linear(), images, classes)
    assert maps.methods_for(linear(), maps.METHODS) == ["ig", "occlusion", "lime"]
    assert maps.methods_for(pooled(), ["lime", "gradcam"]) == ["lime", "gradcam"]
