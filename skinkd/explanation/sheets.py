"""Pictures of maps: contact sheets of right and wrong cases by class, and each map as a 16-bit PNG."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from skinkd.explanation.explain import Explained
from skinkd.explanation.summary import NOT_LEARNED

MARK = "†"
"""Stands beside the name of a method whose map does not depend on what was learned."""
_DEEPEST = 2**16 - 1


def sixteen_bits(found: NDArray[np.floating]) -> bytes:
    """Return a map as a 16-bit PNG: its largest value is 65535, and 0 is 0; the table's ``peak`` gives the units."""
    peak = float(found.max())
    grey = np.round(found / peak * _DEEPEST) if peak > 0 else np.zeros_like(found)
    return cv2.imencode(".png", grey.astype(np.uint16))[1].tobytes()


def sheets(
    explained: Sequence[Explained],
    *,
    output: str,
    classes: Sequence[str],
    marked: set[tuple[str, str]],
    settings: Mapping[str, Any],
) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the figure of each contact sheet: the right and the wrong cases of each class.

    A row is an image: with the outline of its mask, then under each map.

    Args:
        explained: the images, with labels or without.
        output: whose maps to show.
        classes: the class names.
        marked: (output, method) pairs that do not depend on what was learned.
        settings: ``sheet`` of ``conf/explain.yaml``: most ``rows``, ``inches`` of an image, and ``opacity`` of the maps.
    """
    piles: dict[str, list[Explained]] = {}
    for one in explained:
        piles.setdefault(_pile(one, classes), []).append(one)
    for name, cases in piles.items():
        yield name, _sheet(cases[: settings["rows"]], output, classes, marked, settings)


def _pile(one: Explained, classes: Sequence[str]) -> str:
    if one.case.label is None:
        return f"predicted_{classes[int(one.probability.argmax())]}"
    right = int(one.probability.argmax()) == one.case.label
    return f"{classes[one.case.label]}_{'right' if right else 'wrong'}"


def _sheet(
    cases: Sequence[Explained],
    output: str,
    classes: Sequence[str],
    marked: set[tuple[str, str]],
    settings: Mapping[str, Any],
) -> Figure:
    methods = [method for place, method in cases[0].maps if place == output]
    columns, inches = len(methods) + 1, settings["inches"]
    figure = Figure(figsize=(columns * inches, len(cases) * (inches + 0.3) + 0.3))
    axes = figure.subplots(len(cases), columns, squeeze=False, gridspec_kw={"wspace": 0.04, "hspace": 0.3})
    for line, one in zip(axes, cases, strict=True):
        picture = one.case.standard.image
        for axis in line:
            axis.axis("off")
            axis.imshow(picture)
            if one.case.standard.lesion is not None:
                axis.contour(one.case.standard.lesion, levels=[0.5], colors="white", linewidths=0.8)
        line[0].set_title(_words(one, classes), fontsize=6, pad=3)
        for axis, method in zip(line[1:], methods, strict=True):
            axis.imshow(one.maps[output, method], cmap="inferno", alpha=settings["opacity"])
            axis.set_title(method + (f" {MARK}" if (output, method) in marked else ""), fontsize=6, pad=3)
    if any((output, method) in marked for method in methods):
        figure.text(0.5, 0.005, f"{MARK} {NOT_LEARNED}", ha="center", fontsize=6)
    return figure


def _words(one: Explained, classes: Sequence[str]) -> str:
    """Return the name of the image, and the probability of the class that is explained."""
    name = one.case.image_id if len(one.case.image_id) <= 20 else "…" + one.case.image_id[-19:]
    return f"{name}\np({classes[one.chosen]}) = {one.probability[one.chosen]:.2f}"


def save_maps(explained: Sequence[Explained], folder: Path) -> None:
    """Write every map to ``<output>/<method>/<image>.png`` below a folder."""
    for one in explained:
        for (output, method), found in one.maps.items():
            path = folder / output / method / f"{one.case.image_id.replace('/', '_')}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sixteen_bits(found))
