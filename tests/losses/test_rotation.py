import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skinkd.losses.logit import kl_divergence
from skinkd.losses.rotation import keep_mask, rotated_index, rotation_retrieval_loss, rotation_similarity


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def projections(images: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        4 * images, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).requires_grad_()


@pytest.mark.parametrize("images", [1, 2, 7])
def test_similarity_and_retrieval_are_the_loops(images):
    projection = projections(images)
    rows = projection.tolist()
    expected = [
        [cosine(rows[4 * image + turn], rows[4 * other]) for other in range(images)]
        for image in range(images)
        for turn in (1, 2, 3)
    ]
    similarity = rotation_similarity(projection)
    torch.testing.assert_close(similarity, torch.tensor(expected, dtype=torch.float64))
    losses = [math.log(sum(map(math.exp, row))) - row[index // 3] for index, row in enumerate(expected)]
    assert rotation_retrieval_loss(projection).item() == pytest.approx(sum(losses) / len(losses), abs=1e-12)


def test_rotated_index_counts_the_rotations():
    assert rotated_index(torch.zeros(9, 3)).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_one_image_is_always_retrieved():
    projection = projections(1)
    loss = rotation_retrieval_loss(projection)
    loss.backward()
    assert loss.item() == 0 and not projection.grad.any()


def test_similarity_ignores_length_and_gradients_are_right():
    projection = projections(2)
    scaled = projection * torch.arange(1, 9).unsqueeze(1)
    torch.testing.assert_close(rotation_similarity(scaled), rotation_similarity(projection))
    torch.autograd.gradcheck(rotation_retrieval_loss, projection)


def test_zero_and_equal_projections_stay_finite():
    for projection in (torch.zeros(8, 6), torch.ones(8, 6)):
        projection.requires_grad_()
        loss = rotation_retrieval_loss(projection)
        loss.backward()
        assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
        assert projection.grad.abs().max() < 1


def test_rows_that_are_not_four_rotations_are_refused():
    with pytest.raises(ValueError, match="6 rows are not 4 rotations"):
        rotation_similarity(torch.zeros(6, 2))


def kept_by_loop(scores: list[list[float]], target: list[int], keep_wrong: float) -> list[bool]:
    ranks = []
    for row, y in zip(scores, target, strict=True):
        order = sorted(range(len(row)), key=lambda j: (-row[j], j))
        ranks.append(order.index(y))
    wrong = sorted((rank, sample) for sample, rank in enumerate(ranks) if rank > 0)
    kept = {sample for _, sample in wrong[: math.floor(len(wrong) * keep_wrong)]}
    return [rank == 0 or sample in kept for sample, rank in enumerate(ranks)]


@given(
    st.integers(2, 5).flatmap(
        lambda classes: st.lists(
            st.tuples(st.lists(st.integers(-2, 2), min_size=classes, max_size=classes), st.integers(0, classes - 1)),
            max_size=24,
        )
    ),
    st.sampled_from([0.0, 0.1, 0.25, 0.29, 0.5, 0.7, 0.75, 1.0]),
)
def test_keep_mask_is_the_loop_ties_included(samples, keep_wrong):
    scores, target = [row for row, _ in samples], [y for _, y in samples]
    width = len(scores[0]) if scores else 2
    mask = keep_mask(
        torch.tensor(scores, dtype=torch.float32).reshape(-1, width),
        torch.tensor(target, dtype=torch.int64),
        keep_wrong=keep_wrong,
    )
    assert mask.tolist() == kept_by_loop(scores, target, keep_wrong)


def test_a_teacher_always_right_keeps_everything():
    target = torch.tensor([0, 1, 2, 1])
    assert keep_mask(torch.eye(3)[target], target, keep_wrong=0.0).all()


def test_a_teacher_always_wrong_keeps_the_fraction():
    target = torch.tensor([0, 1, 2, 1])
    scores = -torch.eye(3)[target]
    assert keep_mask(scores, target, keep_wrong=0.5).tolist() == [True, True, False, False]
    nothing = keep_mask(scores, target, keep_wrong=0.0)
    assert not nothing.any()
    student = torch.randn(4, 3, requires_grad=True)
    loss = kl_divergence(student, scores, temperature=4, sample_mask=nothing)
    loss.backward()
    assert loss.item() == 0 and not student.grad.any()
