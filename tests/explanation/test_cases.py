"""Crops that keep the lesion, images drawn evenly, networks untrained from the top."""

import copy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from skinkd.data.masks import Masked
from skinkd.explanation.cases import evenly, off_centre
from skinkd.explanation.sanity import head_prefixes, untrained_from_the_top
from skinkd.explanation.summary import interval
from skinkd.models.hybrid import plain_backbone
from tests.explanation.test_outputs import hybrids


def masked(height: int, width: int, box: tuple[int, int, int, int]) -> Masked:
    top, bottom, left, right = box
    lesion = np.zeros((height, width), bool)
    lesion[top:bottom, left:right] = True
    return Masked(np.repeat(lesion[..., None] * np.uint8(200), 3, axis=2), lesion, {"hair": ~lesion})


@pytest.mark.parametrize("box", [(20, 40, 40, 60), (0, 10, 0, 10), (30, 60, 70, 100), (5, 47, 10, 52)])
def test_a_moved_crop_keeps_the_lesion_and_puts_it_off_the_centre(box: tuple[int, int, int, int]) -> None:
    whole = masked(60, 100, box)
    assert whole.lesion is not None
    corners = set()
    for seed in range(12):
        crop = off_centre(whole, share=0.7, seed=(0, seed))
        assert crop is not None and crop.lesion is not None
        assert crop.image.shape == (42, 42, 3) and crop.lesion.sum() == whole.lesion.sum()
        assert np.array_equal(crop.image[..., 0] > 0, crop.lesion)
        assert np.array_equal(crop.artefacts["hair"], ~crop.lesion)
        corners.add(tuple(int(index[0]) for index in np.nonzero(crop.lesion)))
        again = off_centre(whole, share=0.7, seed=(0, seed))
        assert again is not None and np.array_equal(crop.lesion, again.lesion)
    assert len(corners) == (4 if box == (20, 40, 40, 60) else 1)  # the others touch the image's border or fill the crop
    if box != (5, 47, 10, 52):
        sides = np.array([box[1] - box[0], box[3] - box[2]])
        assert all(np.abs(2 * np.array(corner) + sides - 42).min() > 8 for corner in corners)


def test_a_lesion_that_is_too_large_or_unknown_is_not_moved() -> None:
    assert off_centre(masked(60, 100, (5, 50, 10, 20)), share=0.7, seed=(0, 0)) is None
    assert off_centre(masked(60, 100, (0, 0, 0, 0)), share=0.7, seed=(0, 0)) is None
    assert off_centre(Masked(np.zeros((9, 9, 3), np.uint8), None, {}), share=0.7, seed=(0, 0)) is None


def test_images_are_drawn_in_turn_from_each_class() -> None:
    labels = [0] * 50 + [1] * 4 + [2] * 2
    frame = pd.DataFrame({"image_id": [f"i{k:02d}" for k in range(56)], "label": labels})
    drawn = evenly(frame, 12, seed=0)
    assert drawn["label"].value_counts().to_dict() == {0: 6, 1: 4, 2: 2}
    assert drawn["image_id"].is_monotonic_increasing
    assert len(evenly(frame, 100, seed=0)) == 56
    other = evenly(frame, 12, seed=1)
    assert evenly(frame, 12, seed=0).equals(drawn) and not other.equals(drawn)


def networks() -> list[tuple[Any, str]]:
    build = {"num_classes": 3, "image_size": 64, "pretrained": False, "weights": None, "options": {}}
    teacher, student, _ = hybrids()
    plain = plain_backbone("test_resnet.r160_in1k", **build).eval()
    return [(plain, "final"), *((teacher, name) for name in ("final", *teacher.exit_names)), (student, "exit_2")]


def test_weights_are_replaced_from_the_head_down_until_none_is_trained() -> None:
    for network, output in networks():
        fresh = copy.deepcopy(network)
        for value in fresh.state_dict().values():
            value.add_(1) if value.is_floating_point() else value.add_(7)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        shares = []
        for step, other in untrained_from_the_top(network, fresh, output=output, levels=3):
            changed = [n for n, value in other.state_dict().items() if not torch.equal(value, before[n])]
            shares.append((step, len(changed)))
            assert not other.training
            if step == "head":
                prefixes = head_prefixes(network, output)
                assert changed and all(name.startswith(prefixes) for name in changed)
                assert {n.rpartition(".")[2] for n in changed} <= {"weight", "bias"}
        assert [step for step, _ in shares] == ["head", "0.33", "0.67", "1.00"]
        counts = [n for _, n in shares]
        assert counts == sorted(set(counts)) and counts[-1] == len(before)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_head_of_an_output_is_what_makes_its_logits() -> None:
    """With another head only that output changes."""
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for network, output in networks():
        if output == "final":
            continue
        with torch.no_grad():
            before = network.features(images).exits
            for name, value in network.named_parameters():
                if name.startswith(head_prefixes(network, output)):
                    value.add_(nn.init.normal_(torch.empty_like(value)))
            after = network.features(images).exits
        changed = {name for name in before if not torch.allclose(before[name], after[name])}
        assert changed == {output}


def test_an_interval_is_that_of_a_loop_over_resampled_lesions() -> None:
    rng = np.random.default_rng(0)
    groups = [f"l{k // 2}" for k in range(40)]
    values = rng.normal(size=20).repeat(2) + rng.normal(0, 0.1, 40)
    values[5] = np.nan
    mean, low, high = interval(values, groups, replicates=4000, seed=1, level=0.9)
    means = []
    for _ in range(4000):
        drawn = rng.integers(20, size=20)
        images = np.concatenate([values[2 * k : 2 * k + 2] for k in drawn])
        means.append(np.nanmean(images))
    assert mean == pytest.approx(np.nanmean(values))
    np.testing.assert_allclose([low, high], np.quantile(means, [0.05, 0.95]), atol=0.03)
    assert all(np.isnan(interval(np.full(3, np.nan), ["a"] * 3, replicates=5, seed=0, level=0.9)))
