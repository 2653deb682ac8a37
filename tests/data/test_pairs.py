"""Pairs of images in a training sample: who the partner is, in every process and after every interruption."""

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from skinkd.data.dataset import SkinDataset
from skinkd.data.sampler import EpochSampler, PairSampler
from skinkd.data.transforms import eval_pipeline, train_pipeline

LABELS = np.array([0] * 7 + [1] * 5 + [2])
PLAIN = {"seed": 3, "weights": None, "per_class": None}


def keys(pairs: str, *, rank: int = 0, world: int = 1, epoch: int = 0, batch_size: int = 4) -> list[tuple[int, ...]]:
    sampler = PairSampler(LABELS, pairs=pairs, batch_size=batch_size, rank=rank, world=world, **PLAIN)
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("pairs", ["class_pair", "last_batch"])
@pytest.mark.parametrize("world", [1, 2])
def test_the_first_of_each_pair_is_that_of_the_plain_order(pairs: str, world: int) -> None:
    for epoch in (0, 1):
        for rank in range(world):
            plain = EpochSampler(len(LABELS), rank=rank, world=world, **PLAIN)
            plain.set_epoch(epoch)
            assert [key[:2] for key in keys(pairs, rank=rank, world=world, epoch=epoch)] == list(plain)


def test_class_pairs() -> None:
    for epoch in (0, 1):
        found = keys("class_pair", epoch=epoch)
        assert all(LABELS[first] == LABELS[partner] for first, _, partner, _ in found)
        assert all(key[1] == key[3] == epoch for key in found)
        two = [keys("class_pair", rank=rank, world=2, epoch=epoch) for rank in (0, 1)]
        # 13 images for two processes: the first image comes again at the end
        assert [key for pair in zip(*two, strict=True) for key in pair][:13] == found
    assert keys("class_pair", epoch=0) != keys("class_pair", epoch=1)
    partners = {key[2] for epoch in range(60) for key in keys("class_pair", epoch=epoch) if key[0] == 0}
    assert partners == set(range(7))  # every image of its class, and itself


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_the_partners_are_the_last_batch_of_the_process(world: int, batch_size: int) -> None:
    for rank in range(world):
        last: list[tuple[int, ...]] = []
        for epoch in range(3):
            found = iter(keys("last_batch", rank=rank, world=world, epoch=epoch, batch_size=batch_size))
            while len(batch := list(islice(found, batch_size))) == batch_size:
                if last:
                    assert [key[2:] for key in batch] == [key[:2] for key in last]
                else:
                    assert all(key[:2] == key[2:] for key in batch)
                last = batch


def test_an_interrupted_epoch_goes_on_with_the_same_pairs() -> None:
    for pairs in ("class_pair", "last_batch"):
        sampler = PairSampler(LABELS, pairs=pairs, batch_size=4, rank=0, world=1, **PLAIN)
        sampler.set_epoch(2)
        whole = list(sampler)
        sampler.skip = 8
        assert list(sampler) == whole[8:]


def test_a_sample_has_a_view_of_each_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    frame = pd.DataFrame({"path": [str(tmp_path / f"{k}.png") for k in range(3)], "label": [0, 1, 2]})
    same_size = eval_pipeline(image_size=20)
    dataset = SkinDataset(frame, pipeline=same_size, views="class_pair", seed=0)
    sample = dataset[(0, 5, 2, 4)]
    assert sample.image.shape == (2, 3, 20, 20)
    assert (int(sample.label), int(sample.index)) == (0, 0)
    for place, number in enumerate((0, 2)):
        stored = cv2.cvtColor(cv2.imread(str(tmp_path / f"{number}.png")), cv2.COLOR_BGR2RGB)
        assert np.array_equal(sample.image[place].permute(1, 2, 0).numpy(), stored)

    import albumentations as A

    noisy = train_pipeline([A.Resize(20, 20), A.GaussNoise(p=1)], image_size=20)
    dataset = SkinDataset(frame, pipeline=noisy, views="last_batch", seed=0)
    first, second = dataset[(1, 3, 1, 3)].image  # its partner is the same image in the same epoch, but another view
    assert (first != second).any()
    again = dataset[(0, 4, 1, 3)].image
    assert (again[1] == second).all()  # the view depends on the partner and its epoch alone
