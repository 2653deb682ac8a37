"""The trained networks that predict: of a run, and of an exported folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skinkd.errors import UserError, check_choice
from skinkd.inference.exported import Exported, is_export, open_exported
from skinkd.inference.trained import Trained, open_trained

Images = NDArray[np.uint8]


def _view(*, quarters: int = 0, flipped: tuple[int, ...] = ()) -> Callable[[Images], Images]:
    """Return a function that turns images by ``quarters`` counter-clockwise, then flips these axes (2: rows, 3: columns)."""
    return lambda images: np.flip(np.rot90(images, quarters, (2, 3)), flipped)


TTA = {
    "none": (_view(),),
    "flips": tuple(_view(flipped=axes) for axes in ((), (3,), (2,), (2, 3))),
    "dihedral": tuple(_view(quarters=quarters, flipped=axes) for axes in ((), (3,)) for quarters in range(4)),
}
"""Views of images (N, 3, H, W) by the name of the test-time augmentation: the flips, or all eight symmetries of the square."""


class Predictor(Protocol):
    """A trained network that gives probabilities."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The K class names, in the order of the probabilities."""

    @property
    def image_size(self) -> int:
        """Height and width of the network's images, px."""

    def probabilities(self, images: Images) -> NDArray[np.float64]:
        """Return class probabilities (N, K) of RGB images (N, 3, H, W)."""


def open_predictor(given: str, *, file: str, setting: str = "run") -> Trained | Exported:
    """Open a run folder, a checkpoint or an exported folder.

    Args:
        given: its path.
        file: of an exported folder, "fp32" or "int8".
        setting: the key that gave it, for errors.

    Raises:
        UserError: it is none of these, or cannot be opened.
    """
    folder = Path(given).expanduser()
    return (
        open_exported(folder, file=file, setting=setting) if is_export(folder) else open_trained(given, setting=setting)
    )


def predicted(predictor: Predictor, images: Images, *, tta: str) -> NDArray[np.float64]:
    """Return class probabilities (N, K) of images (N, 3, H, W): the mean over the views of ``tta``, a name of ``TTA``.

    Raises:
        UserError: there is no such name, or a probability is not finite.
    """
    views = TTA[check_choice("tta", tta, TTA)]
    mean = np.stack([predictor.probabilities(np.ascontiguousarray(view(images))) for view in views]).mean(axis=0)
    if not np.isfinite(mean).all():
        raise UserError("the network's output is not finite: its training diverged; give another run")
    return mean
