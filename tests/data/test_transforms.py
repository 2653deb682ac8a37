import random
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from skinkd.data.transforms import RegionalGamma, SyntheticHair, eval_pipeline, seed_pipeline, train_pipeline
from skinkd.errors import UserError

AUGMENT = Path(__file__).parents[2] / "conf" / "augment"
NAMES = sorted(path.stem for path in AUGMENT.glob("*.yaml"))
IMAGE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8), (0, 0), 2)


def from_yaml(name: str, image_size: int) -> list[Any]:
    config = OmegaConf.create({"data": {"image_size": image_size}, "augment": OmegaConf.load(AUGMENT / f"{name}.yaml")})
    return instantiate(config.augment.train, _convert_="all")


def rga(**changes: Any) -> RegionalGamma:
    return RegionalGamma(**({"beta_alpha": 1.0, "gamma_limit": [0.5, 2.0], "p": 1.0} | changes))


def draw(transform: RegionalGamma, shape: tuple[int, int], seed: int) -> dict[str, Any]:
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return transform.get_params_dependent_on_data({"shape": (*shape, 3)}, {})


def test_rga_by_plain_loops() -> None:
    image = np.random.default_rng(1).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    transform = rga()
    changed = 0
    for seed in range(30):
        params = draw(transform, (13, 17), seed)
        transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        result = transform(image=image)["image"]
        top, bottom, left, right = params["box"]
        for row in range(13):
            for column in range(17):
                for channel in range(3):
                    value = float(image[row, column, channel])
                    if top <= row < bottom and left <= column < right:
                        value = round(255.0 * (value / 255.0) ** params["gamma"])
                    assert result[row, column, channel] == value
        changed += not np.array_equal(result, image)
    assert changed > 20
    assert result is not image


def test_rga_draws_what_the_paper_describes() -> None:
    height, width = 200, 300
    params = [draw(rga(), (height, width), seed) for seed in range(3000)]
    gammas = np.array([one["gamma"] for one in params])
    assert gammas.min() >= 0.5 and gammas.max() <= 2
    assert gammas.mean() == pytest.approx(1.25, abs=0.03) and gammas.std() == pytest.approx(1.5 / 12**0.5, abs=0.02)

    boxes = np.array([one["box"] for one in params])
    assert (boxes[:, [0, 2]] >= 0).all() and (boxes[:, 1] <= height).all() and (boxes[:, 3] <= width).all()
    rows, columns = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    assert (rows * columns / (height * width)).max() <= 0.5
    # boxes that touch no border keep the image's proportions and cover 1 - λ of it, uniform in [0, 1/2]
    inside = (boxes[:, 0] > 0) & (boxes[:, 1] < height) & (boxes[:, 2] > 0) & (boxes[:, 3] < width)
    np.testing.assert_allclose(rows[inside] / height, columns[inside] / width, atol=2.5 / height)
    clipped = (boxes[:, 0] == 0) | (boxes[:, 1] == height)
    assert 0.3 < clipped.mean() < 0.7
    centres = (boxes[inside, 0] + boxes[inside, 1]) / 2
    assert centres.mean() == pytest.approx(height / 2, abs=6)
    sides = []
    for seed in range(3000):  # the same first draw, as an oracle of the side
        b = np.random.default_rng(seed).beta(1.0, 1.0)
        sides.append((1 - max(b, 1 - b)) ** 0.5)
    np.testing.assert_allclose(rows[inside] / height, np.array(sides)[inside], atol=2.5 / height)
    assert np.mean(np.square(sides)) == pytest.approx(0.25, abs=0.01)


def test_rga_probability_extremes_and_bytes() -> None:
    np.testing.assert_array_equal(rga(p=0.0)(image=IMAGE)["image"], IMAGE)
    for value in (0, 255):
        flat = np.full((8, 8, 3), value, np.uint8)
        np.testing.assert_array_equal(rga()(image=flat)["image"], flat)
    np.testing.assert_array_equal(rga(gamma_limit=[1.0, 1.0])(image=IMAGE)["image"], IMAGE)
    tiny = np.full((1, 1, 3), 9, np.uint8)
    assert rga()(image=tiny)["image"].shape == (1, 1, 3)


@pytest.mark.parametrize(
    "changes", [{"p": 1.5}, {"beta_alpha": 0.0}, {"gamma_limit": [0.0, 2.0]}, {"gamma_limit": [2.0, 0.5]}]
)
def test_rga_checks_its_arguments(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="RegionalGamma"):
        rga(**changes)
    with pytest.raises(TypeError, match="gama_limit"):
        rga(gama_limit=[0.5, 2.0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("image_size", [28, 96])
@pytest.mark.filterwarnings("error")
def test_every_augment_file_gives_square_bytes_and_only_its_seed_decides(name: str, image_size: int) -> None:
    pipeline = train_pipeline(from_yaml(name, image_size), image_size=image_size)
    other = train_pipeline(from_yaml(name, image_size), image_size=image_size)
    results = []
    for seed in range(60):
        seed_pipeline(pipeline, np.random.default_rng(seed))
        result = pipeline(image=IMAGE)["image"]
        assert result.shape == (image_size, image_size, 3) and result.dtype == np.uint8
        np.random.seed(seed + 1), random.seed(seed + 1)  # global generators may not matter
        seed_pipeline(other, np.random.default_rng(seed))
        np.testing.assert_array_equal(other(image=IMAGE)["image"], result)
        results.append(result.tobytes())
    assert len(set(results)) == 1 if name == "none" else len(set(results)) > 30


def test_names_are_those_the_documentation_promises() -> None:
    assert {"basic", "rga", "none", "ssdkd", "randaugment"} <= set(NAMES)


def test_no_augmentation_is_the_rule_of_evaluation() -> None:
    plain = train_pipeline(from_yaml("none", 64), image_size=64)
    for shape in ((90, 120), (120, 90), (30, 40), (64, 64)):
        image = cv2.resize(IMAGE, shape[::-1])
        np.testing.assert_array_equal(plain(image=image)["image"], eval_pipeline(image_size=64)(image=image)["image"])


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (32, 40), (96, 300)])
def test_evaluation_averages_areas_and_takes_the_central_square(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    result = eval_pipeline(image_size=16)(image=image)["image"]
    factor = min(shape) // 16  # whole numbers, so that an area average is a mean of blocks
    height, width = shape[0] // factor, shape[1] // factor
    if (height * factor, width * factor) != shape:
        assert result.shape == (16, 16, 3)
        return
    blocks = image.reshape(height, factor, width, factor, 3).astype(float).mean(axis=(1, 3))
    top, left = (height - 16) // 2, (width - 16) // 2
    np.testing.assert_allclose(result, blocks[top : top + 16, left : left + 16], atol=0.51)


def test_transforms_decide_independently_of_each_other() -> None:
    flips = train_pipeline(
        [A.Resize(height=8, width=8, p=1.0), A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)], image_size=8
    )
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    kinds = {image[::a, ::b].tobytes(): (a, b) for a in (1, -1) for b in (1, -1)}
    seen = []
    for seed in range(400):
        seed_pipeline(flips, np.random.default_rng(seed))
        seen.append(kinds[flips(image=image)["image"].tobytes()])
    assert all(60 < seen.count(kind) < 140 for kind in kinds.values())  # 100 each; 4.6 standard deviations


def test_one_seed_gives_a_sequence_of_different_results() -> None:
    pipeline = train_pipeline(from_yaml("basic", 32), image_size=32)
    sequences = []
    for _ in range(2):
        seed_pipeline(pipeline, np.random.default_rng(9))
        sequences.append([pipeline(image=IMAGE)["image"].tobytes() for _ in range(4)])
    assert sequences[0] == sequences[1] and len(set(sequences[0])) == 4


@pytest.mark.filterwarnings("ignore:Argument")
def test_a_misspelt_argument_and_a_wrong_size_are_errors() -> None:
    crop = {"size": (32, 32), "p": 1.0}
    with pytest.raises(UserError, match=r"augment\.train: .*'scal'.* RandomResizedCrop"):
        train_pipeline([A.RandomResizedCrop(**crop, scal=(0.5, 1.0))], image_size=32)
    with pytest.raises(UserError, match=r"augment\.train: .*'scal'"):
        train_pipeline([A.OneOf([A.RandomResizedCrop(**crop, scal=(0.5, 1.0))], p=1.0)], image_size=32)
    with pytest.raises(UserError, match=r"\(32, 32, 3\).* must give 48x48 \(data\.image_size\)"):
        train_pipeline([A.RandomResizedCrop(**crop)], image_size=48)
    with pytest.raises(UserError, match="must give 48x48"):
        train_pipeline([A.HorizontalFlip(p=0.5)], image_size=48)
    with pytest.raises(UserError, match="float32"):
        train_pipeline([A.RandomResizedCrop(**crop), A.ToFloat(p=1.0)], image_size=32)


def hair(**changes: Any) -> SyntheticHair:
    settings: dict[str, Any] = {
        "count_range": [3, 6],
        "length_range": [0.3, 1.0],
        "width_range": [0.01, 0.03],
        "opacity_range": [0.5, 0.9],
        "brightness_range": [20, 60],
        "p": 1.0,
    }
    return SyntheticHair(**(settings | changes))


def grow(transform: SyntheticHair, image: np.ndarray, seed: int) -> np.ndarray:
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return transform(image=image)["image"]


def test_hair_darkens_a_few_pixels_and_is_seeded() -> None:
    light = np.full((90, 120, 3), 200, np.uint8)
    before = light.copy()
    touched = []
    for seed in range(30):
        result = grow(hair(), light, seed)
        np.testing.assert_array_equal(light, before)
        np.testing.assert_array_equal(result, grow(hair(), light, seed))
        assert result.dtype == np.uint8 and result.shape == light.shape
        assert (result <= light).all()  # hair never brightens
        share = (result != light).any(axis=2).mean()
        touched.append(share)
        assert share < 0.35 and result.min() >= 0.1 * 200 - 1  # 0.9 opaque at most
    assert np.mean(np.array(touched) > 0) > 0.9
    dark = np.zeros((40, 30, 3), np.uint8)
    np.testing.assert_array_equal(grow(hair(), dark, 0), dark)
    np.testing.assert_array_equal(grow(hair(count_range=[0, 0]), light, 0), light)


def test_more_hair_covers_more_and_opaque_hair_has_its_colour() -> None:
    light = np.full((80, 80, 3), 220, np.uint8)
    few, many = (
        np.mean([(grow(hair(count_range=[n, n]), light, seed) != light).mean() for seed in range(20)]) for n in (2, 12)
    )
    assert many > 2 * few > 0
    result = grow(hair(opacity_range=[1, 1], brightness_range=[40, 40], width_range=[0.1, 0.1]), light, 3)
    changed = result[(result != light).any(axis=2)]
    assert changed.min(axis=0).tolist() == [40, 34, 28]


@pytest.mark.parametrize(
    "changes",
    [
        {"count_range": [3, 1]},
        {"count_range": [-1, 1]},
        {"opacity_range": [0.5, 1.5]},
        {"brightness_range": [0, 300]},
        {"width_range": [0.1]},
        {"p": 2.0},
    ],
)
def test_wrong_hair(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"SyntheticHair.{next(iter(changes))}"):
        hair(**changes)
