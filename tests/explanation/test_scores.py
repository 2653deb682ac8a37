"""Scores against hand-made maps, plain loops and scikit-learn, and what planted errors do to them."""

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from skinkd.explanation.nulls import null_maps
from skinkd.explanation.outputs import Output
from skinkd.explanation.scores import (
    LOCALISATION,
    border_regions,
    deletion_insertion,
    energy_inside,
    equal_area_iou,
    localisation,
    mask_auc,
    pointing,
    rank_correlation,
    ranks,
)


def disc(size: int, row: float, column: float, radius: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return np.hypot(y - row, x - column) <= radius


def bell(size: int, row: float, column: float, spread: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * spread**2))


@pytest.fixture(params=[0, 1, 2])
def pair(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """A map with many equal values, and a mask."""
    rng = np.random.default_rng(request.param)
    return rng.integers(0, 6, (9, 12)).astype(np.float32), rng.random((9, 12)) < 0.3


def test_the_auc_is_that_of_scikit_learn(pair: tuple[np.ndarray, np.ndarray]) -> None:
    found, mask = pair
    assert mask_auc(found, mask) == pytest.approx(roc_auc_score(mask.ravel(), found.ravel()))


def test_every_score_is_the_mean_over_the_orders_of_equal_values(pair: tuple[np.ndarray, np.ndarray]) -> None:
    found, mask = pair
    rng, area = np.random.default_rng(9), int(mask.sum())
    hits, insides = [], []
    for _ in range(4000):
        order = np.lexsort((rng.random(found.size), -found.ravel()))
        hits.append(mask.ravel()[order[0]])
        insides.append(mask.ravel()[order[:area]].sum())
    assert pointing(found, mask) == pytest.approx(np.mean(hits), abs=0.03)
    inside = np.mean(insides)  # the IoU of the mean overlap
    assert equal_area_iou(found, mask) == pytest.approx(inside / (2 * area - inside), abs=0.01)
    total = sum(found[i, j] for i in range(9) for j in range(12))
    part = sum(found[i, j] for i in range(9) for j in range(12) if mask[i, j])
    assert energy_inside(found, mask) == pytest.approx(part / total)


def test_the_mask_itself_is_the_best_map_and_its_inverse_the_worst() -> None:
    mask = disc(32, 12, 18, 7)
    assert localisation(mask.astype(float), mask) == dict.fromkeys(LOCALISATION, 1.0)
    assert localisation((~mask).astype(float), mask) == dict.fromkeys(LOCALISATION, 0.0)


def test_a_constant_map_scores_what_guessing_scores() -> None:
    mask = disc(32, 12, 18, 7)
    area = mask.mean()
    for constant in (np.zeros((32, 32)), np.full((32, 32), 3.5)):
        scores = localisation(constant, mask)
        assert scores["auc"] == pytest.approx(0.5)
        assert scores["pointing"] == pytest.approx(area) and scores["energy"] == pytest.approx(area)
        assert scores["iou"] == pytest.approx(area / (2 - area))


def test_units_change_no_score(pair: tuple[np.ndarray, np.ndarray]) -> None:
    found, mask = pair
    for name, value in localisation(found, mask).items():
        assert localisation(1000 * found, mask)[name] == pytest.approx(value)


def test_a_mask_without_lesion_or_without_skin_has_no_score() -> None:
    for mask in (np.zeros((8, 8), bool), np.ones((8, 8), bool)):
        assert all(np.isnan(value) for value in localisation(np.ones((8, 8)), mask).values())


def test_a_shifted_mask_lowers_every_score_the_more_the_farther_it_is_shifted() -> None:
    found = bell(64, 30, 34, 8)
    shifts = [localisation(found, disc(64, 30, 34 - shift, 9)) for shift in (0, 6, 12, 20)]
    assert shifts[0]["pointing"] == 1 and shifts[-1]["pointing"] == 0
    for name in ("energy", "iou", "auc"):
        values = [scores[name] for scores in shifts]
        assert values == sorted(values, reverse=True) and values[0] - values[-1] > 0.3, name


def test_maps_of_other_images_score_as_the_null_rows_and_not_as_their_own() -> None:
    """Planted error: each map is given to the next image."""
    rng = np.random.default_rng(0)
    places = rng.uniform(12, 52, (40, 2))
    masks = [disc(64, row, column, 8) for row, column in places]
    maps = [bell(64, row, column, 6) for row, column in places]
    own = np.mean([mask_auc(found, mask) for found, mask in zip(maps, masks, strict=True)])
    others = np.mean([mask_auc(found, mask) for found, mask in zip(maps[1:] + maps[:1], masks, strict=True)])
    assert own > 0.99 and 0.3 < others < 0.75


def test_the_centre_prior_is_good_on_centred_lesions_and_not_off_the_centre() -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    settings = {"blob": 0.1, "centre": 0.25}
    centred, moved = disc(64, 31.5, 31.5, 14), disc(64, 14, 48, 10)
    prior = null_maps(image, centred, None, settings, seed=0)["centre"]
    assert mask_auc(prior, centred) == 1 and pointing(prior, centred) == 1
    assert mask_auc(prior, moved) < 0.6 and pointing(prior, moved) == 0


NULLS = ("uniform", "blobs", "centre", "mean_mask", "darkness", "mask")


def test_the_null_maps_are_what_their_names_say() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
    mask, mean = disc(48, 20, 20, 9), rng.random((48, 48))
    maps = null_maps(image, mask, mean, {"blob": 0.1, "centre": 0.25}, seed=3)
    assert tuple(maps) == NULLS and all(found.shape == (48, 48) and found.min() >= 0 for found in maps.values())
    assert maps["mean_mask"] is mean and np.array_equal(maps["mask"], mask)
    assert np.ptp(maps["uniform"]) == 0
    assert np.unravel_index(maps["darkness"].argmax(), (48, 48)) == np.unravel_index(
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).argmin(), (48, 48)
    )
    again, other = (null_maps(image, mask, mean, {"blob": 0.1, "centre": 0.25}, seed=seed) for seed in (3, 4))
    assert np.array_equal(again["blobs"], maps["blobs"]) and not np.array_equal(other["blobs"], maps["blobs"])
    assert set(null_maps(image, None, None, {"blob": 0.1, "centre": 0.25}, seed=3)) == {*NULLS} - {"mask", "mean_mask"}


class Bright(nn.Module):
    """The probability of class 1 is the mean red of a disc, as a network that looks only there."""

    def __init__(self, mask: np.ndarray) -> None:
        super().__init__()
        self.mask = torch.from_numpy(mask)

    def forward(self, image: Tensor) -> Tensor:
        share = image[:, 0, self.mask].mean(dim=1).clamp(0.001, 0.999)
        return torch.stack([(1 - share).log(), share.log()], dim=1)


def test_deletion_and_insertion_are_the_loops_of_the_paper() -> None:
    mask = disc(16, 6, 9, 4)
    image = torch.full((3, 16, 16), 0.1)
    image[:, torch.from_numpy(mask)] = 0.95
    output = Output("final", Bright(mask), None)
    maps = [mask.astype(float) + bell(16, 6, 9, 3), (~mask).astype(float), np.ones((16, 16))]
    settings = {"chosen": 1, "steps": 8, "blur": 0.3, "seed": 0}
    found = deletion_insertion(output, image, maps, batch=5, **settings)
    from skinkd.explanation.maps import blurred

    empty = blurred(image[None], 0.3)[0]
    for map, (deletion, insertion) in zip(maps, found, strict=True):
        place = ranks(map, 0)
        curves: dict[str, list[float]] = {"deletion": [], "insertion": []}
        for step in range(9):
            taken = torch.from_numpy(place < step * 256 / 8)
            for name, first, second in (("deletion", empty, image), ("insertion", image, empty)):
                mixed = torch.where(taken, first, second)
                curves[name].append(float(output.logits(mixed[None]).softmax(dim=1)[0, 1]))
        assert deletion == pytest.approx(np.trapezoid(curves["deletion"], dx=1 / 8), abs=1e-5)
        assert insertion == pytest.approx(np.trapezoid(curves["insertion"], dx=1 / 8), abs=1e-5)
    right, wrong, guess = found
    assert right[0] < guess[0] < wrong[0] and right[1] > guess[1] > wrong[1]
    assert found == deletion_insertion(output, image, maps, batch=512, **settings)


def test_the_order_begins_with_the_largest_value_and_draws_among_equal_ones() -> None:
    found = np.array([[0.0, 2.0, 0.0], [5.0, 0.0, 0.0]])
    assert ranks(found, 0)[1, 0] == 0 and ranks(found, 0)[0, 1] == 1
    assert sorted(ranks(found, 0).ravel()) == list(range(6))
    last = {tuple(ranks(found, seed).ravel()) for seed in range(30)}
    assert len(last) > 5


def test_the_rank_correlation_is_spearmans(pair: tuple[np.ndarray, np.ndarray]) -> None:
    found, _ = pair
    other = np.random.default_rng(4).random(found.shape) + 0.2 * found
    assert rank_correlation(found, other) == pytest.approx(spearmanr(found.ravel(), other.ravel()).statistic)
    assert rank_correlation(found, np.exp(found)) == pytest.approx(1)
    assert np.isnan(rank_correlation(found, np.ones_like(found)))


def test_the_vignette_is_dark_and_at_the_border_and_a_dark_lesion_is_not() -> None:
    image = np.full((64, 64, 3), 180, np.uint8)
    assert set(border_regions(image, dark=0.2)) == {"corners"}
    corners = border_regions(image, dark=0.2)["corners"]
    assert corners[0, 0] and corners[-1, -1] and not corners[0, 32] and not corners[32, 32]
    assert corners.mean() == pytest.approx(1 - np.pi / 4, abs=0.03)
    image[disc(64, 32, 32, 10)] = 10
    assert set(border_regions(image, dark=0.2)) == {"corners"}
    tube = ~disc(64, 32, 32, 28)
    image[tube] = 5
    assert np.array_equal(border_regions(image, dark=0.2)["vignette"], tube)
