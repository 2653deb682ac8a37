"""Mixing of batches against timm's, and through the loader."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup, rand_bbox
from torch import Tensor

from skinkd.batch import Batch
from skinkd.data.datamodule import SkinDataModule
from skinkd.data.ham10000 import load_ham10000
from skinkd.data.mixing import MIXES, Mix, _box
from skinkd.data.splits import make_split
from skinkd.data.transforms import eval_pipeline, train_pipeline
from skinkd.errors import UserError

LESIONS = ("nv", "mel", "akiec", "bcc", "bkl", "df", "vasc")
CLASSES = len(LESIONS)


def images(size: int, views: int, *, height: int = 12, width: int = 17, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (size, views, 3, height, width), dtype=torch.uint8, generator=generator)
    return image, torch.randint(CLASSES, (size,), generator=generator)


def legacy() -> Any:
    """NumPy's old generator, which timm draws from, with the names of the new one."""
    return SimpleNamespace(random=np.random.rand, beta=np.random.beta, integers=np.random.randint)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize(("size", "views", "prob"), [(2, 1, 1.0), (6, 1, 0.5), (8, 2, 0.5), (4, 4, 1.0)])
def test_a_batch_equals_timms(kind: str, size: int, views: int, prob: float) -> None:
    ours = Mix(kind, alpha=0.7, prob=prob, num_classes=CLASSES)
    alphas = {"mixup_alpha": 0.7, "cutmix_alpha": 0.0} if kind == "mixup" else {"mixup_alpha": 0.0, "cutmix_alpha": 0.7}
    theirs = Mixup(**alphas, prob=prob, mode="batch", label_smoothing=0.0, num_classes=CLASSES)
    mixed = 0
    for seed in range(40):
        image, label = images(size, views, seed=seed)
        before = image.clone()
        np.random.seed(seed)
        # timm knows no views: as further channels they share everything
        expected, expected_share = theirs(image.flatten(1, 2).float(), label)
        np.random.seed(seed)
        found, share = ours(image, label, legacy())
        assert found.dtype == torch.uint8 and found.shape == image.shape
        assert torch.equal(image, before)  # the batch that was given stays
        assert (found.flatten(1, 2).float() - expected).abs().max() <= (0.501 if kind == "mixup" else 0)
        torch.testing.assert_close(share, expected_share, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(share.sum(dim=1), torch.ones(size))
        mixed += not torch.equal(found, image)
    # a share near 1 changes no byte
    assert 30 < mixed <= 40 if prob == 1 else 5 < mixed < 30


@pytest.mark.parametrize("lam", [0.0, 0.2, 0.5, 0.99, 1.0])
@pytest.mark.parametrize(("height", "width"), [(12, 17), (1, 1), (64, 64), (3, 40)])
def test_the_box_is_timms(lam: float, height: int, width: int) -> None:
    for seed in range(20):
        np.random.seed(seed)
        top, bottom, left, right = (int(edge) for edge in rand_bbox((3, height, width), lam))
        np.random.seed(seed)
        assert _box(height, width, lam, legacy()) == (slice(top, bottom), slice(left, right))


def test_the_image_in_the_middle_of_an_odd_batch_stays() -> None:
    """timm refuses an odd batch; here the middle image is mixed with itself."""
    image, label = images(5, 1)
    for kind in ("mixup", "cutmix"):
        mix = Mix(kind, alpha=1.0, prob=1.0, num_classes=CLASSES)
        found, share = mix(image, label, np.random.default_rng(0))
        assert torch.equal(found[2], image[2]) and share[2, label[2]] == pytest.approx(1)
        assert not torch.equal(found[0], image[0])


@pytest.mark.parametrize(
    ("kind", "alpha", "prob", "words"),
    [
        ("mixupp", 1.0, 1.0, "augment.mix=mixupp .* did you mean 'mixup'"),
        ("mixup", 0.0, 1.0, "augment.mix_alpha=0.0"),
        ("mixup", float("nan"), 1.0, "augment.mix_alpha=nan"),
        ("cutmix", 1.0, 1.5, "augment.mix_prob=1.5"),
        ("cutmix", 1.0, -0.1, "augment.mix_prob=-0.1"),
    ],
)
def test_values_out_of_range_are_refused(kind: str, alpha: float, prob: float, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Mix(kind, alpha=alpha, prob=prob, num_classes=CLASSES)


# ------------------------------------------------------------------ through the loader


@pytest.fixture
def make(ham_folder: Callable[..., Path]) -> Callable[..., SkinDataModule]:
    table = load_ham10000(ham_folder(lesions=dict.fromkeys(LESIONS, 3)), on_bad_image="error")
    fractions = {"train": 0.6, "val": 0.2, "test": 0.2}
    parts = make_split(table, protocol="grouped", fractions=fractions, seed=0, fold=None, folds=None)

    def build(**changes: Any) -> SkinDataModule:
        settings: dict[str, Any] = {
            "table": table,
            "parts": parts,
            "train_pipeline": train_pipeline([A.RandomResizedCrop(size=(16, 16), p=1.0)], image_size=16),
            "eval_pipeline": eval_pipeline(image_size=16),
            "views": "one",
            "batch_size": 4,
            "eval_batch_size": 5,
            "num_workers": 0,
            "seed": 0,
            "sampler": "none",
        }
        return SkinDataModule(**(settings | changes))

    return build


def batches(data: SkinDataModule, epoch: int, *, state: dict[str, int] | None = None) -> list[Batch]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    if state is not None:
        loader.load_state_dict(state)
    return list(loader)


@pytest.mark.parametrize("views", ["one", "two", "four_rotations"])
def test_mixed_batches_are_the_same_for_any_workers_and_after_a_resume(
    make: Callable[..., SkinDataModule], views: str
) -> None:
    mix = Mix("cutmix", alpha=1.0, prob=1.0, num_classes=CLASSES)
    plain = batches(make(views=views), 3)
    here = batches(make(views=views, mix=mix), 3)
    assert len(here) > 2
    for before, after in zip(plain, here, strict=True):
        assert torch.equal(before.index, after.index)
        assert after.image.dtype == torch.uint8 and after.image.shape == before.image.shape
        assert after.label.dtype == torch.float32 and after.label.shape == (len(before.label), CLASSES)
        # every view of an image has the same pixels of the other one
        replaced = (after.image != before.image).any(dim=2)
        outside = (after.image == before.image) | (after.image == before.image.flip(0))
        assert outside.all()
        assert replaced.any()
    for data, state in (
        (make(views=views, mix=mix, num_workers=2), None),
        (make(views=views, mix=mix), {"batches": 1}),
    ):
        resumed = batches(data, 3, state=None if state is None else state | {"epoch": 3})
        for ours, whole in zip(resumed, here[0 if state is None else 1 :], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, whole, strict=True))


def test_each_batch_epoch_and_seed_draws_anew(make: Callable[..., SkinDataModule]) -> None:
    mix = Mix("mixup", alpha=1.0, prob=1.0, num_classes=CLASSES)

    def shares(epoch: int, seed: int) -> list[float]:
        return [batch.label.max(dim=1).values.min().item() for batch in batches(make(mix=mix, seed=seed), epoch)]

    seen = [*shares(0, 0), *shares(1, 0), *shares(0, 1)]
    assert len(set(seen)) > 0.8 * len(seen)


def test_validation_is_not_mixed(make: Callable[..., SkinDataModule]) -> None:
    data = make(mix=Mix("mixup", alpha=1.0, prob=1.0, num_classes=CLASSES))
    labels = torch.cat([batch.label for batch in data.val_dataloader()])
    assert labels.dtype == torch.int64 and labels.tolist() == data.rows("val")["label"].tolist()


def test_the_kinds_are_those_of_the_setting() -> None:
    assert MIXES == ("none", "mixup", "cutmix")
