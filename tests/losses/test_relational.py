import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from skinkd.losses import relational
from skinkd.losses.relational import rkd_angle, rkd_distance

LOSSES = [rkd_distance, rkd_angle]


def features(rows: int, channels: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, channels, dtype=torch.float64, generator=generator)


def smooth_l1(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def distance_by_loop(student: torch.Tensor, teacher: torch.Tensor) -> float:
    n = len(student)
    relative = []
    for rows in (student.tolist(), teacher.tolist()):
        distances = [[math.dist(a, b) for b in rows] for a in rows]
        mean = sum(map(sum, distances)) / max(n * (n - 1), 1)
        relative.append([d / mean if mean else 0.0 for row in distances for d in row])
    return sum(smooth_l1(s - t) for s, t in zip(*relative, strict=True)) / n**2


def angle_by_loop(student: torch.Tensor, teacher: torch.Tensor) -> float:
    n = len(student)

    def cosine(rows: list[list[float]], i: int, j: int, k: int) -> float:
        a = [x - y for x, y in zip(rows[j], rows[i], strict=True)]
        b = [x - y for x, y in zip(rows[k], rows[i], strict=True)]
        lengths = math.hypot(*a) * math.hypot(*b)
        return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0

    s, t = student.tolist(), teacher.tolist()
    triplets = [(i, j, k) for i in range(n) for j in range(n) for k in range(n)]
    return sum(smooth_l1(cosine(s, *ijk) - cosine(t, *ijk)) for ijk in triplets) / n**3


def angle_by_difference_vectors(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The published code's N×N×C form."""

    def cosines(rows: torch.Tensor) -> torch.Tensor:
        direction = F.normalize(rows.unsqueeze(0) - rows.unsqueeze(1), dim=2)
        return direction @ direction.transpose(1, 2)

    return F.smooth_l1_loss(cosines(student), cosines(teacher))


LOOPS = {rkd_distance: distance_by_loop, rkd_angle: angle_by_loop}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_value_is_the_loop(loss, rows):
    student, teacher = features(rows, 4), features(rows, 6, seed=1)
    assert loss(student, teacher).item() == pytest.approx(LOOPS[loss](student, teacher), abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_value_with_equal_vectors_is_the_loop_and_the_gradient_finite(loss):
    student, teacher = features(5, 4), features(5, 6, seed=1)
    student[3], teacher[4] = student[0], teacher[1]
    student.requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(LOOPS[loss](student.detach(), teacher), abs=1e-12)
    assert student.grad.abs().max() < 10


@pytest.mark.parametrize("loss", LOSSES)
def test_vectors_equal_to_rounding_count_as_equal(loss):
    # as two equal rows can be after matrix products that add in another order
    equal, teacher = features(40, 64), features(40, 6, seed=1)
    equal[1:20] = equal[0]
    nearly = equal.clone()
    nearly[1:20] += 4e-16 * features(19, 64, seed=2)
    equal.requires_grad_()
    nearly.requires_grad_()
    value, expected = loss(nearly, teacher), loss(equal, teacher)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    value.backward()
    expected.backward()
    torch.testing.assert_close(nearly.grad, equal.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_nothing_but_equal_vectors_gives_zero_or_the_teachers_spread(loss, dtype):
    student = torch.full((40, 33), 0.1, dtype=dtype).requires_grad_()
    value = loss(student, student.detach() * 3)
    value.backward()
    assert value.item() == 0 and not student.grad.any()
    student.grad = None
    value = loss(student, features(40, 33).to(dtype))
    value.backward()
    assert value > 0 and not student.grad.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_one_row_is_zero_with_a_zero_gradient(loss):
    student = features(1, 4).requires_grad_()
    value = loss(student, features(1, 6))
    value.backward()
    assert value.item() == 0 and not student.grad.any()


@pytest.mark.parametrize("loss", LOSSES)
def test_nan_is_not_hidden(loss):
    student = features(5, 4)
    student[2, 1] = float("nan")
    assert loss(student, features(5, 6)).isnan()


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient(loss):
    student, teacher = features(6, 4).requires_grad_(), features(6, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student)
    loss(student, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("chunk", [1, 36, 100, 10**6])
def test_angle_does_not_depend_on_the_chunk(monkeypatch, chunk):
    monkeypatch.setattr(relational, "CPU_CHUNK", chunk)
    student, teacher = features(7, 4).requires_grad_(), features(7, 5, seed=1)
    ours, theirs = rkd_angle(student, teacher), angle_by_difference_vectors(student, teacher)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(3 * ours, student),
        torch.autograd.grad(3 * theirs, student),
        rtol=1e-10,
        atol=1e-14,
    )


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(2, 9), st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_both_ignore_scale_rotation_and_translation(seed, rows, scale, shift):
    student, teacher = features(rows, 4, seed), features(rows, 5, seed + 1)
    rotation = torch.linalg.qr(features(4, 4, seed + 2)).Q
    moved = scale * (student @ rotation + shift)
    for loss in LOSSES:
        torch.testing.assert_close(loss(moved, teacher), loss(student, teacher), rtol=1e-7, atol=1e-9)
        assert loss(moved, student) < 1e-12


@pytest.mark.parametrize("mean", [0, 1, 1000])
@pytest.mark.parametrize("channels", [64, 1280])
def test_float32_agrees_with_float64_under_a_large_common_mean(mean, channels):
    student = (features(32, channels) + mean).float().requires_grad_()
    teacher = (features(32, channels, seed=1) + mean).float()
    precise = student.detach().double().requires_grad_()
    for loss, exact in [(rkd_distance, rkd_distance), (rkd_angle, angle_by_difference_vectors)]:
        value, expected = loss(student, teacher), exact(precise, teacher.double())
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
        (gradient,) = torch.autograd.grad(value, student)
        (expected_gradient,) = torch.autograd.grad(expected, precise)
        error = (gradient.double() - expected_gradient).norm() / expected_gradient.norm()
        assert error < 1e-5


@pytest.mark.parametrize("channels", [64, 1280])
@pytest.mark.parametrize(("spread", "error"), [(1e-1, 1e-6), (1e-2, 1e-6), (1e-3, 3e-5)])
def test_float32_survives_neighbours_far_from_the_others(channels, spread, error):
    # the rotations of one image are close to each other, the images far apart; a cosine of two sides whose
    # lengths differ r-fold is good to r roundings, where inner products of the features would lose r²
    images = features(8, channels).repeat_interleave(4, 0)
    student = (images + spread * features(32, channels, seed=2)).float()
    teacher = features(32, channels, seed=3).float()
    expected = angle_by_difference_vectors(student.double(), teacher.double())
    torch.testing.assert_close(rkd_angle(student, teacher).double(), expected, rtol=error, atol=0)


class LargestTensor(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize(("loss", "rows"), [(rkd_distance, 16), (rkd_angle, 16), (rkd_angle, 96)])
def test_memory_never_holds_the_differences(loss, rows):
    student, teacher = torch.randn(rows, 2048, requires_grad=True), torch.randn(rows, 2048)
    with LargestTensor() as largest:
        loss(student, teacher).backward()
    assert largest.elements <= max(rows * 2048, min(rows**3, relational.CPU_CHUNK))
