import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinkd.data.sampler import EpochSampler, class_balance_weights
from skinkd.errors import UserError


def take(length: int, *, epoch: int = 0, seed: int = 0, rank: int = 0, world: int = 1, weights=None, skip: int = 0):
    sampler = EpochSampler(length, seed=seed, rank=rank, world=world, weights=weights)
    sampler.set_epoch(epoch)
    sampler.skip = skip
    return list(sampler), len(sampler)


@given(
    length=st.integers(1, 50),
    world=st.integers(1, 6),
    epoch=st.integers(0, 5),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_processes_share_out_one_permutation(
    length: int, world: int, epoch: int, seed: int, data: st.DataObject
) -> None:
    shares = [take(length, epoch=epoch, seed=seed, rank=rank, world=world) for rank in range(world)]
    assert len({(len(keys), size) for keys, size in shares}) == 1  # equally many everywhere, as announced
    assert all(len(keys) == size == -(-length // world) for keys, size in shares)
    assert all(key[1] == epoch for keys, _ in shares for key in keys)
    merged = [keys[k][0] for k in range(shares[0][1]) for keys, _ in shares]
    assert sorted(merged[:length]) == list(range(length))
    assert merged[length:] == [merged[k % length] for k in range(len(merged) - length)]
    assert [(index, epoch) for index in merged[:length]] == take(length, epoch=epoch, seed=seed)[0]
    skip = data.draw(st.integers(0, length))
    assert take(length, epoch=epoch, seed=seed, skip=skip) == (
        shares_of_one(length, epoch, seed)[skip:],
        length,
    )


def shares_of_one(length: int, epoch: int, seed: int) -> list[tuple[int, int]]:
    return take(length, epoch=epoch, seed=seed)[0]


def test_order_changes_with_epoch_and_seed_and_with_nothing_else() -> None:
    orders = {
        (seed, epoch): tuple(index for index, _ in take(40, seed=seed, epoch=epoch)[0])
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(set(orders.values())) == 16
    np.random.seed(1)
    assert tuple(index for index, _ in take(40, seed=2, epoch=3)[0]) == orders[2, 3]


def test_a_sampler_can_be_read_again_and_again() -> None:
    sampler = EpochSampler(10, seed=0, rank=0, world=1, weights=None)
    assert list(sampler) == list(sampler)
    sampler.set_epoch(1)
    assert {epoch for _, epoch in sampler} == {1}


def test_wrong_processes_and_weights() -> None:
    with pytest.raises(ValueError, match="rank 2"):
        EpochSampler(10, seed=0, rank=2, world=2, weights=None)
    with pytest.raises(ValueError, match="3 weights for 10"):
        EpochSampler(10, seed=0, rank=0, world=1, weights=np.ones(3))


@pytest.mark.parametrize(("choice", "exponent"), [("balanced", 1.0), ("sqrt", 0.5)])
def test_weights_draw_classes_as_they_promise(choice: str, exponent: float) -> None:
    labels = np.repeat([0, 1, 3], [900, 90, 10])  # label 2 has no image
    weights = class_balance_weights(labels, sampler=choice)
    assert weights is not None
    drawn = np.array([index for epoch in range(30) for index, _ in take(1000, epoch=epoch, weights=weights)[0]])
    assert len(drawn) == 30_000
    wanted = np.array([900, 90, 10]) ** (1 - exponent)
    wanted = wanted / wanted.sum()
    shares = np.array([(labels[drawn] == label).mean() for label in (0, 1, 3)])
    np.testing.assert_allclose(shares, wanted, atol=0.015)  # 5 standard deviations of the largest
    rare = np.bincount(drawn, minlength=1000)[990:]
    assert rare.min() > 0 and rare.max() / rare.min() < 1.5  # all images of a class alike


def test_weighted_orders_are_shared_out_and_repeatable() -> None:
    weights = class_balance_weights(np.array([0] * 9 + [1]), sampler="balanced")
    whole = take(10, epoch=2, weights=weights)[0]
    assert take(10, epoch=2, weights=weights)[0] == whole != take(10, epoch=3, weights=weights)[0]
    halves = [take(10, epoch=2, weights=weights, rank=rank, world=2)[0] for rank in range(2)]
    assert [key for pair in zip(*halves, strict=True) for key in pair] == whole


def test_no_weights_and_a_misspelt_choice() -> None:
    assert class_balance_weights(np.array([0, 1]), sampler="none") is None
    with pytest.raises(UserError, match=r"sampler=balance.*did you mean 'balanced'"):
        class_balance_weights(np.array([0, 1]), sampler="balance")


@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    target=st.integers(1, 30),
    world=st.integers(1, 3),
    epoch=st.integers(0, 3),
)
def test_per_class_gives_each_class_its_number_and_repeats_no_image_before_its_time(
    counts: list[int], target: int, world: int, epoch: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    shares = []
    for rank in range(world):
        sampler = EpochSampler(len(labels), seed=3, rank=rank, world=world, weights=None, per_class=(labels, target))
        sampler.set_epoch(epoch)
        shares.append([index for index, _ in sampler])
        assert len(shares[-1]) == len(sampler)
    merged = [share[k] for k in range(len(shares[0])) for share in shares][: target * len(counts)]
    for label, count in enumerate(counts):
        times = np.bincount(merged, minlength=len(labels))[labels == label]
        assert times.sum() == target
        assert set(times) <= {target // count, -(-target // count)}


def test_per_class_drops_and_repeats_other_images_in_another_epoch() -> None:
    labels = np.array([0] * 40 + [1] * 5)
    sampler = EpochSampler(45, seed=0, rank=0, world=1, weights=None, per_class=(labels, 10))
    first = sorted(index for index, _ in sampler)
    sampler.set_epoch(1)
    assert first != sorted(index for index, _ in sampler)
