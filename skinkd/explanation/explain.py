"""Makes and scores the maps of every image; the table of scores has a row for each image, output, crop and map."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from skinkd.data.masks import Masked
from skinkd.explanation.cases import Case, Material
from skinkd.explanation.maps import make_maps, methods_for
from skinkd.explanation.nulls import null_maps
from skinkd.explanation.outputs import Output, outputs_of
from skinkd.explanation.sanity import HEAD, untrained_from_the_top
from skinkd.explanation.scores import (
    FAITHFULNESS,
    Map,
    border_regions,
    deletion_insertion,
    energy_inside,
    localisation,
    rank_correlation,
)

FINAL = "final"
STANDARD, MOVED = "standard", "off-centre"
SHORTCUTS = ("corners", "vignette", "hair", "ruler", "patch")
"""Shares of a map's energy on what is not the lesion, NaN for an image without it."""
UNTRAINED = "untrained_"  # columns: rank correlation with the map of a network that is untrained so far
FLIPPED = "flipped"  # column: rank correlation with the map of the flipped image, flipped back


class Explained(NamedTuple):
    """What is known of one image.

    Attributes:
        case: the image.
        probability: of each class, (K,).
        chosen: index of the explained class.
        maps: by output and method, (S, S).
    """

    case: Case
    probability: NDArray[np.float64]
    chosen: int
    maps: dict[tuple[str, str], NDArray[np.float32]]


def explain_all(
    network: Any,
    fresh: nn.Module,
    material: Material,
    *,
    image_size: int,
    chosen: int | None,
    settings: Mapping[str, Any],
) -> tuple[list[Explained], pd.DataFrame]:
    """Make all maps and score them.

    Args:
        network: the trained network, in eval mode.
        fresh: an untrained network of the same kind.
        material: the images.
        image_size: height and width of the images, S.
        chosen: index of the class to explain; None: of each image the predicted class.
        settings: of ``conf/explain.yaml``.

    Returns:
        The maps of each image, and the table of scores.
    """
    outputs = outputs_of(network, image_size=image_size, cells=settings["layer_cells"])
    plan = {output.name: _methods(output, settings) for output in outputs}
    probability = predict(network, [case.standard for case in material.cases], batch=settings["batch"])
    classes = [int(row.argmax()) if chosen is None else chosen for row in probability]
    few = _spread(len(material.cases), settings["sanity"]["images"])
    bar = tqdm(
        total=sum(map(len, plan.values())) * (len(classes) + len(few) * (settings["sanity"]["levels"] + 1)),
        desc="explaining",
        unit="map",
        disable=None,
        leave=False,
    )
    explained: list[Explained] = []
    rows: list[dict[str, Any]] = []
    for case, shares, wanted in zip(material.cases, probability, classes, strict=True):
        maps: dict[tuple[str, str], NDArray[np.float32]] = {}
        number = len(explained)
        for output in outputs:
            found = _both_crops(output, case, wanted, plan[output.name], settings, bar)
            maps |= {(output.name, name): crops[STANDARD] for name, crops in found.items()}
            rows += _scored(output, case, wanted, found, material.mean_mask, settings, number)
        explained.append(Explained(case, shares, wanted, maps))
    table = pd.DataFrame(rows)
    sanity = _sanity(network, fresh, [explained[k] for k in few], image_size, plan, settings, bar)
    bar.close()
    return explained, _joined(table, sanity, explained)


def predict(network: nn.Module, images: Sequence[Masked], *, batch: int) -> NDArray[np.float64]:
    """Return the probabilities of the K classes for N images, (N, K)."""
    with torch.no_grad():
        parts = [network(part).float().softmax(dim=1) for part in as_batch(images).split(batch)]
    return torch.cat(parts).double().numpy()


def as_batch(images: Sequence[Masked]) -> Tensor:
    """Return images as the network takes them, uint8 (N, 3, H, W)."""
    return torch.from_numpy(np.stack([masked.image for masked in images])).permute(0, 3, 1, 2).contiguous()


def _methods(output: Output, settings: Mapping[str, Any]) -> list[str]:
    return methods_for(output, settings["methods"] if output.name == FINAL else settings["exit_methods"])


def _spread(n: int, wanted: int) -> list[int]:
    """Return the numbers of ``wanted`` of n images, evenly apart."""
    return sorted({round(place) for place in np.linspace(0, n - 1, min(n, wanted))})


def _both_crops(
    output: Output, case: Case, wanted: int, methods: Sequence[str], settings: Mapping[str, Any], bar: tqdm
) -> dict[str, dict[str, Map]]:
    """Return by method and crop the maps of an image."""
    crops = {STANDARD: case.standard} | ({} if case.moved is None else {MOVED: case.moved})
    images, target = as_batch(list(crops.values())), torch.full((len(crops),), wanted)
    found = {}
    for name in methods:
        maps = make_maps(name, output, images, target, settings).numpy()
        found[name] = dict(zip(crops, maps, strict=True))
        bar.update()
    return found


def _scored(
    output: Output,
    case: Case,
    wanted: int,
    found: Mapping[str, Mapping[str, Map]],
    mean_mask: Map | None,
    settings: Mapping[str, Any],
    number: int,
) -> list[dict[str, Any]]:
    """Return the rows of an image and an output: the methods and the null maps, on both crops."""
    rows = []
    for crop, masked in ((STANDARD, case.standard), (MOVED, case.moved)):
        if masked is None:
            continue
        seed = settings["seed"] + number
        maps = {name: crops[crop] for name, crops in found.items()}
        nulls = null_maps(masked.image, masked.lesion, mean_mask, settings["nulls"], seed=seed)
        regions = border_regions(masked.image, dark=settings["vignette"]["dark"])
        regions |= {kind: mask for kind, mask in masked.artefacts.items() if mask.any()}  # a crop may lack them
        every = maps | nulls
        curves: dict[str, tuple[float, float]] = {}
        if crop == STANDARD:  # moved crops are there for localisation alone
            areas = deletion_insertion(
                output, as_batch([masked])[0], list(every.values()), chosen=wanted, **settings["faithfulness"]
            )
            curves = dict(zip(every, areas, strict=True))
        for name, values in every.items():
            place = {} if masked.lesion is None else localisation(values, masked.lesion)
            rows.append(
                {
                    "image_id": case.image_id,
                    "output": output.name,
                    "crop": crop,
                    "kind": "method" if name in maps else "null",
                    "map": name,
                    "peak": float(values.max()),
                    **place,
                    **dict(zip(FAITHFULNESS, curves.get(name, ()), strict=False)),
                    **{kind: energy_inside(values, regions[kind]) for kind in SHORTCUTS if kind in regions},
                }
            )
    return rows


def _sanity(
    network: Any,
    fresh: nn.Module,
    chosen: Sequence[Explained],
    image_size: int,
    plan: Mapping[str, Sequence[str]],
    settings: Mapping[str, Any],
    bar: tqdm,
) -> pd.DataFrame:
    """Return for some images how alike the maps of untrained networks are, and those of the flipped image."""
    images = as_batch([one.case.standard for one in chosen])
    wanted = torch.tensor([one.chosen for one in chosen])
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}

    def compare(column: str, output: str, name: str, maps: NDArray[np.float32]) -> None:
        for one, other in zip(chosen, maps, strict=True):
            row = rows.setdefault((one.case.image_id, output, name), {})
            row[column] = rank_correlation(one.maps[output, name], other)

    for place, output in enumerate(outputs_of(network, image_size=image_size, cells=settings["layer_cells"])):
        for name in plan[output.name]:
            back = make_maps(name, output, images.flip(3), wanted, settings).flip(2)
            compare(FLIPPED, output.name, name, back.numpy())
        steps = untrained_from_the_top(network, fresh, output=output.name, levels=settings["sanity"]["levels"])
        for step, other in steps:
            changed = outputs_of(other, image_size=image_size, cells=settings["layer_cells"])[place]
            for name in plan[output.name]:
                maps = make_maps(name, changed, images, wanted, settings)
                compare(f"{UNTRAINED}{step}", output.name, name, maps.numpy())
                bar.update(len(chosen))
    columns = ["image_id", "output", "map"]
    return pd.DataFrame([dict(zip(columns, key, strict=True)) | {"crop": STANDARD} | row for key, row in rows.items()])


def _joined(table: pd.DataFrame, sanity: pd.DataFrame, explained: Sequence[Explained]) -> pd.DataFrame:
    """Return the table of scores with what is known of each image, and with the sanity of the images that have it."""
    facts = pd.DataFrame(
        [
            {
                "image_id": one.case.image_id,
                "group": one.case.group,
                "label": one.case.label,
                "prediction": int(one.probability.argmax()),
                "explained": one.chosen,
                "probability": float(one.probability[one.chosen]),
            }
            for one in explained
        ]
    )
    return facts.merge(table, on="image_id").merge(sanity, how="left", on=["image_id", "output", "map", "crop"])


def untrained_columns(levels: int) -> list[str]:
    """Return the columns of the table that compare with untrained networks, from the head to the whole network."""
    return [f"{UNTRAINED}{HEAD}", *(f"{UNTRAINED}{level / levels:.2f}" for level in range(1, levels + 1))]
