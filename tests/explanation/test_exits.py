"""MSKD's networks: each exit has a map, and the fused whole is explained by changing the image."""

from typing import Any

import numpy as np
import pytest

from skinkd.data.masks import Masked
from skinkd.explanation.cases import Case, Material
from skinkd.explanation.explain import explain_all
from skinkd.explanation.summary import flat, summarise
from tests.explanation.test_outputs import hybrids

SETTINGS: dict[str, Any] = {
    "seed": 0, "methods": ["gradcam", "occlusion"], "exit_methods": ["gradcam"], "layer_cells": 7, "blur": 0.15, "batch": 32,
    "gradcam": {}, "occlusion": {"window": 0.5, "stride": 0.25, "blur": 0.15, "batch": 32},
    "nulls": {"blob": 0.1, "centre": 0.25}, "faithfulness": {"steps": 3, "blur": 0.15, "batch": 32, "seed": 0},
    "vignette": {"dark": 0.2}, "sanity": {"images": 1, "levels": 2, "limit": 0.5},
    "evaluation": {"bootstrap_replicates": 20, "interval": 0.95},
}  # fmt: skip


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_exit_has_its_map_and_scores(number: int) -> None:
    network, fresh = hybrids()[number], hybrids()[number]
    rng = np.random.default_rng(0)
    lesion = np.zeros((64, 64), bool)
    lesion[20:40, 10:44] = True
    pictures = [Masked(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), lesion, {}) for _ in range(2)]
    cases = [Case(f"i{k}", f"g{k}", k, picture, pictures[0]) for k, picture in enumerate(pictures)]
    explained, table = explain_all(network, fresh, Material(cases, None), image_size=64, chosen=1, settings=SETTINGS)
    expected = {("final", "occlusion"), *((name, "gradcam") for name in network.exit_names)}
    assert all(set(one.maps) == expected for one in explained)
    assert all(found.shape == (64, 64) for one in explained for found in one.maps.values())
    methods = table[table["kind"] == "method"]
    assert set(zip(methods["output"], methods["map"], strict=True)) == expected
    assert len(methods) == 2 * 2 * len(expected) and methods["auc"].between(0, 1).all()
    numbers = flat(summarise(table, SETTINGS))
    for name, method in expected:
        assert f"{name}/{method}/auc" in numbers and f"{name}/{method}/off-centre/auc" in numbers
