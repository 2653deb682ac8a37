"""Explanations that must find a known shortcut, and must not find it in a network that never saw it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from skinkd.data.masks import Masked, prepared, read_masked
from skinkd.data.synthetic import CLASSES, load_synthetic
from skinkd.data.synthetic_patch import SOURCE, load_synthetic_patch
from skinkd.data.transforms import eval_pipeline
from skinkd.explanation.explain import as_batch
from skinkd.explanation.maps import grad_cam
from skinkd.explanation.outputs import outputs_of
from skinkd.explanation.scores import energy_inside, mask_auc, pointing
from skinkd.models.hybrid import plain_backbone

PATCHED, SIZE = "nv", 64
DRAWN: dict[str, Any] = {"images": 160, "height": 48, "width": 64, "seed": 0, "on_bad_image": "error"}


def images_of(table: Any) -> tuple[list[Masked], Tensor]:
    pipeline = eval_pipeline(image_size=SIZE)
    read = [prepared(read_masked(path, SOURCE), pipeline) for path in table.frame["path"]]
    return read, torch.tensor(table.frame["label"].to_numpy())


def trained_on(images: Tensor, labels: Tensor) -> torch.nn.Module:
    """A small network after 10 epochs of Adam on turned images."""
    torch.manual_seed(0)
    network = plain_backbone(
        "test_resnet.r160_in1k", num_classes=len(CLASSES), image_size=SIZE, pretrained=False, weights=None, options={}
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(10):
        for rows in torch.randperm(len(labels)).split(20):
            batch = images[rows].rot90(int(torch.randint(4, ())), (2, 3))
            F.cross_entropy(network(batch), labels[rows]).backward()
            optimiser.step()
            optimiser.zero_grad()
    return network.eval()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """How much of the patch Grad-CAM finds in unseen images that have it, for each network."""
    root = tmp_path_factory.mktemp("patch")
    with_patch, labels = images_of(load_synthetic_patch(root, **DRAWN, patch_class=PATCHED))
    without, same = images_of(load_synthetic(root, **DRAWN))
    assert torch.equal(labels, same)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:110], [int(k) for k in order[110:] if labels[k] == list(CLASSES).index(PATCHED)]
    shown = as_batch([with_patch[k] for k in test])
    result = {}
    for name, images in (("trained with it", with_patch), ("trained without it", without)):
        network = trained_on(as_batch(images)[train], labels[train])
        (output,) = outputs_of(network, image_size=SIZE, cells=7)
        maps = grad_cam(output, shown, labels[test]).numpy()
        patches = [with_patch[k].artefacts["patch"] for k in test]
        pairs = list(zip(maps, patches, strict=True))
        result[name] = {
            "images": len(test),
            "pointing": np.mean([pointing(map, patch) for map, patch in pairs]),
            "auc": np.mean([mask_auc(map, patch) for map, patch in pairs]),
            "energy": np.mean([energy_inside(map, patch) / patch.mean() for map, patch in pairs]),
        }
    return result


def test_grad_cam_points_at_the_patch_of_a_network_that_was_trained_with_it(found: dict[str, dict[str, float]]) -> None:
    scores = found["trained with it"]
    assert scores["images"] >= 20
    assert (
        scores["pointing"] > 0.8 and scores["auc"] > 0.8 and scores["energy"] > 3
    )  # times the energy of a constant map


def test_grad_cam_does_not_point_at_the_patch_of_a_network_that_never_saw_it(
    found: dict[str, dict[str, float]],
) -> None:
    scores = found["trained without it"]
    assert scores["pointing"] < 0.2 and scores["auc"] < 0.65 and scores["energy"] < 1.5
