"""The look of each class of the synthetic dataset: dermoscopic features as numbers that can be mixed.

Ours; stylised after the dermoscopic criteria of each diagnosis, not measured on HAM10000.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Look(NamedTuple):
    """The look of a lesion; every field blends linearly, so that two classes can overlap.

    ``rim``, ``core`` and ``patch`` are RGB transmittances in [0, 1] that multiply the skin's colour; ``size``
    is the mean radius in image heights; ``softness`` the border's width in radii; the rest are strengths,
    mostly in [0, 1].
    """

    rim: Array
    core: Array
    patch: Array
    patches: float  # share of the lesion in the patch colour, as clouds
    nests: float  # ovoid nests or lacunae in the patch colour
    size: float
    elongation: float
    irregularity: float
    softness: float
    asymmetry: float
    network: float
    globules: float
    cysts: float
    vessels: float
    scale: float
    scar: float
    streaks: float


def _look(*colours: tuple[float, float, float], **strengths: Any) -> Look:
    rim, core, patch = (np.array(colour, dtype=np.float32) for colour in colours)
    return Look(rim=rim, core=core, patch=patch, **strengths)


LOOKS: dict[str, Look] = {
    "akiec": _look(
        (0.95, 0.80, 0.76), (0.84, 0.58, 0.53), (0.70, 0.52, 0.42), patches=0.25, nests=0.0, size=0.32,
        elongation=0.25, irregularity=0.25, softness=0.30, asymmetry=0.3, network=0.0, globules=0.1,
        cysts=0.2, vessels=0.25, scale=0.9, scar=0.0, streaks=0.0,
    ),
    "bcc": _look(
        (0.96, 0.85, 0.86), (0.88, 0.70, 0.73), (0.44, 0.42, 0.52), patches=0.05, nests=0.7, size=0.26,
        elongation=0.20, irregularity=0.22, softness=0.16, asymmetry=0.3, network=0.0, globules=0.1,
        cysts=0.0, vessels=0.9, scale=0.1, scar=0.15, streaks=0.0,
    ),
    "bkl": _look(
        (0.80, 0.73, 0.58), (0.66, 0.57, 0.44), (0.48, 0.40, 0.32), patches=0.25, nests=0.0, size=0.29,
        elongation=0.25, irregularity=0.26, softness=0.05, asymmetry=0.25, network=0.1, globules=0.5,
        cysts=0.9, vessels=0.0, scale=0.25, scar=0.0, streaks=0.0,
    ),
    "df": _look(
        (0.78, 0.67, 0.62), (0.86, 0.74, 0.72), (0.80, 0.62, 0.62), patches=0.10, nests=0.0, size=0.26,
        elongation=0.12, irregularity=0.10, softness=0.32, asymmetry=0.1, network=0.45, globules=0.0,
        cysts=0.0, vessels=0.0, scale=0.0, scar=0.95, streaks=0.0,
    ),
    "mel": _look(
        (0.60, 0.42, 0.39), (0.30, 0.19, 0.19), (0.42, 0.43, 0.54), patches=0.35, nests=0.0, size=0.30,
        elongation=0.30, irregularity=0.32, softness=0.09, asymmetry=0.8, network=0.35, globules=0.5,
        cysts=0.0, vessels=0.1, scale=0.0, scar=0.15, streaks=0.8,
    ),
    "nv": _look(
        (0.82, 0.67, 0.60), (0.62, 0.45, 0.38), (0.70, 0.54, 0.46), patches=0.12, nests=0.0, size=0.24,
        elongation=0.18, irregularity=0.10, softness=0.14, asymmetry=0.2, network=0.6, globules=0.3,
        cysts=0.0, vessels=0.0, scale=0.0, scar=0.0, streaks=0.1,
    ),
    "vasc": _look(
        (0.88, 0.52, 0.58), (0.70, 0.24, 0.35), (0.48, 0.12, 0.26), patches=0.10, nests=0.9, size=0.19,
        elongation=0.20, irregularity=0.16, softness=0.07, asymmetry=0.2, network=0.0, globules=0.0,
        cysts=0.0, vessels=0.0, scale=0.0, scar=0.0, streaks=0.0,
    ),
}  # fmt: skip


def blend(own: Look, other: Look, weight: float) -> Look:
    """Return ``(1 - weight) * own + weight * other``, field by field; ``weight`` in [0, 1]."""
    fields: Iterator[tuple[Any, Any]] = zip(own, other, strict=True)  # floats and arrays
    return Look._make(a * (1 - weight) + b * weight for a, b in fields)
