import numpy as np
import pytest

from skinkd.data.views import VIEWS

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


class Numbering:
    """An augmentation that records what it was given and returns the centre square plus its call number."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def __call__(self, image: np.ndarray) -> np.ndarray:
        self.seen.append(image.copy())
        top, left = (image.shape[0] - 4) // 2, (image.shape[1] - 4) // 2
        return image[top : top + 4, left : left + 4] + np.uint8(len(self.seen))


@pytest.mark.parametrize(("name", "number"), [("one", 1), ("two", 2)])
def test_views_augment_the_same_image_anew(name: str, number: int) -> None:
    augment = Numbering()
    views = VIEWS[name](IMAGE, augment, np.random.default_rng(0))
    assert views.shape == (number, 4, 4, 3) and views.dtype == np.uint8
    for seen in augment.seen:
        np.testing.assert_array_equal(seen, IMAGE)
    for k in range(number):
        np.testing.assert_array_equal(views[k], IMAGE[:, 1:5] + np.uint8(k + 1))


def turn(image: np.ndarray) -> np.ndarray:
    """Rotate by 90 degrees counter-clockwise, pixel by pixel."""
    height, width = image.shape[:2]
    result = np.empty((width, height, 3), image.dtype)
    for row in range(height):
        for column in range(width):
            result[width - 1 - column, row] = image[row, column]
    return result


def test_four_rotations_flip_once_then_turn_then_augment_each() -> None:
    flips = 0
    for seed in range(200):
        augment = Numbering()
        views = VIEWS["four_rotations"](IMAGE, augment, np.random.default_rng(seed))
        assert views.shape == (4, 4, 4, 3) and len(augment.seen) == 4
        mirrored = IMAGE[:, ::-1]
        flipped = np.array_equal(augment.seen[0], mirrored)
        expected = mirrored if flipped else IMAGE
        flips += flipped
        for seen in augment.seen:
            np.testing.assert_array_equal(seen, expected)
            assert seen.flags["C_CONTIGUOUS"]
            expected = turn(expected)
    assert 70 < flips < 130  # a fair coin: 4 standard deviations


def test_the_same_generator_gives_the_same_views() -> None:
    for name, view in VIEWS.items():
        first, second = (view(IMAGE, Numbering(), np.random.default_rng(5)) for _ in range(2))
        np.testing.assert_array_equal(first, second, err_msg=name)
