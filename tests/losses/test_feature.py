import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skinkd.losses.feature import attention_map_distance, attention_transfer, channel_relation, hint_loss

BATCHES = [1, 2, 7]


def maps(batch: int, channels: int, height: int = 3, width: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, height, width, dtype=torch.float64, generator=generator)


def attention(image: list[list[list[float]]]) -> list[float]:
    """Q of one image, (C, H, W) as nested lists."""
    channels, height, width = len(image), len(image[0]), len(image[0][0])
    flat = [sum(image[c][h][w] ** 2 for c in range(channels)) / channels for h in range(height) for w in range(width)]
    return [value / math.hypot(*flat) for value in flat]


@pytest.mark.parametrize("batch", BATCHES)
def test_attention_losses_are_the_loop(batch):
    student, teacher = maps(batch, 4), maps(batch, 5, seed=1)
    squares = [
        (a - b) ** 2
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True)
        for a, b in zip(attention(s), attention(t), strict=True)
    ]
    assert attention_map_distance(student, teacher).item() == pytest.approx(sum(squares) / batch, rel=1e-12)
    assert attention_transfer(student, teacher).item() == pytest.approx(sum(squares) / len(squares), rel=1e-12)


def test_attention_transfer_pools_the_larger_map():
    small, large = maps(2, 4, 3, 2), maps(2, 5, 6, 4, seed=1)
    pooled = torch.tensor(
        [
            [
                [
                    [sum(sum(row[2 * w : 2 * w + 2]) for row in c[2 * h : 2 * h + 2]) / 4 for w in range(2)]
                    for h in range(3)
                ]
                for c in image
            ]
            for image in large.tolist()
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(attention_transfer(small, large), attention_transfer(small, pooled))
    torch.testing.assert_close(attention_transfer(large, small), attention_transfer(pooled, small))


@given(st.floats(1e-2, 1e2), st.integers(0, 10))
def test_attention_map_ignores_scale(scale, seed):
    student, teacher = maps(2, 4, seed=seed), maps(2, 4, seed=seed + 100)
    loss = attention_map_distance(student, teacher)
    torch.testing.assert_close(attention_map_distance(student * scale, teacher), loss)
    assert 0 <= loss <= 2
    assert attention_map_distance(student, -scale * student) < 1e-20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_zero_maps_have_finite_gradients(dtype):
    zero = torch.zeros(2, 4, 3, 2, dtype=dtype)
    for student, teacher in [
        (zero.clone(), zero),
        (zero.clone(), maps(2, 4).to(dtype)),
        (maps(2, 4).to(dtype), zero),
    ]:
        student.requires_grad_()
        for function in (attention_map_distance, attention_transfer, hint_loss, channel_relation):
            student.grad = None
            loss = function(student, teacher)
            loss.backward()
            assert loss.isfinite() and student.grad.isfinite().all()
    # one dead image does not disturb the other
    student = torch.cat([zero[:1].double(), maps(1, 4)]).requires_grad_()
    attention_map_distance(student, maps(2, 4, seed=1)).backward()
    assert not student.grad[0].any() and student.grad[1].any()


@pytest.mark.parametrize("batch", BATCHES)
def test_hint_loss_is_the_loop(batch):
    student, teacher = maps(batch, 4), maps(batch, 4, seed=1)
    pairs = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    expected = sum((s - t) ** 2 for s, t in pairs) / student.numel()
    assert hint_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("batch", BATCHES)
def test_channel_relation_is_the_loop(batch):
    student, teacher = maps(batch, 4), maps(batch, 4, 2, 2, seed=1)
    squares = []
    for s, t in zip(student, teacher, strict=True):
        for a in range(4):
            for b in range(4):
                gram_s = sum(x * y for x, y in zip(s[a].flatten().tolist(), s[b].flatten().tolist(), strict=True))
                gram_t = sum(x * y for x, y in zip(t[a].flatten().tolist(), t[b].flatten().tolist(), strict=True))
                squares.append((gram_s / (4 * 3 * 2) - gram_t / (4 * 2 * 2)) ** 2)
    expected = math.sqrt(sum(squares) / len(squares))
    assert channel_relation(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_channel_relation_at_equal_grams_is_zero_with_zero_gradient():
    teacher = maps(2, 4)
    for student in (teacher.clone(), -teacher, teacher.flip(3)):
        student.requires_grad_()
        loss = channel_relation(student, teacher)
        loss.backward()
        assert loss.item() < 1e-15 and student.grad.isfinite().all()
    student = teacher.clone().requires_grad_()
    channel_relation(student, teacher).backward()
    assert not student.grad.any()


@pytest.mark.parametrize("function", [attention_map_distance, attention_transfer, hint_loss, channel_relation])
def test_gradients_reach_the_student_alone(function):
    student, teacher = maps(2, 4).requires_grad_(), maps(2, 4, seed=1).requires_grad_()
    function(student, teacher).backward()
    assert student.grad.any() and teacher.grad is None
    torch.autograd.gradcheck(lambda s: function(s, teacher), student)
