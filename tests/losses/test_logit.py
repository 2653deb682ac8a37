import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from skinkd.losses.logit import (
    centre,
    class_temperature_kl,
    decoupled_kd,
    kl_divergence,
    rectify,
    soft_cross_entropy,
)

BATCHES = [1, 2, 7]


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    powers = [math.exp(z - top) for z in row]
    return [power / sum(powers) for power in powers]


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def random_logits(batch: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, batch, classes, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(classes, (batch,), generator=generator)


@st.composite
def logit_rows(draw, count: int, bound: float = 30, whole: bool = False):
    """``count`` arrays (B, K) of logits and a target; whole numbers make ties."""
    shape = draw(st.tuples(st.integers(1, 7), st.integers(2, 8)))
    element = st.integers(-3, 3).map(float) if whole else st.floats(-bound, bound)
    arrays = [torch.from_numpy(draw(hnp.arrays(np.float64, shape, elements=element))) for _ in range(count)]
    target = torch.from_numpy(draw(hnp.arrays(np.int64, shape[:1], elements=st.integers(0, shape[1] - 1))))
    return *arrays, target


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("temperature", [0.5, 1, 4])
def test_kl_divergence_is_the_loop(batch, temperature):
    student, teacher, _ = random_logits(batch, 5)
    mask = torch.arange(batch) % 2 == 0
    rows = [
        temperature**2 * divergence(softmax([z / temperature for z in t]), softmax([z / temperature for z in s]))
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    every = kl_divergence(student, teacher, temperature=temperature)
    some = kl_divergence(student, teacher, temperature=temperature, sample_mask=mask)
    assert every.item() == pytest.approx(sum(rows) / batch, rel=1e-12)
    assert some.item() == pytest.approx(sum(rows[::2]) / len(rows[::2]), rel=1e-12)


@settings(max_examples=50)
@given(logit_rows(2), st.floats(0.5, 10))
def test_kl_divergence_is_positive_and_zero_at_equality(rows, temperature):
    student, teacher, _ = rows
    assert kl_divergence(student, teacher, temperature=temperature) >= -1e-12
    student.requires_grad_()
    loss = kl_divergence(student, student.detach(), temperature=temperature)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.abs().max() < 1e-12


def test_kl_divergence_mask_selects_samples_and_their_gradients():
    student, teacher, _ = random_logits(7, 5)
    mask = torch.tensor([True, False, False, True, True, False, False])
    whole, part = student.clone().requires_grad_(), student[mask].clone().requires_grad_()
    kl_divergence(whole, teacher, temperature=4, sample_mask=mask).backward()
    kl_divergence(part, teacher[mask], temperature=4).backward()
    torch.testing.assert_close(whole.grad[mask], part.grad)
    assert not whole.grad[~mask].any()


@pytest.mark.parametrize("batch", [0, 1, 7])
def test_kl_divergence_without_samples_is_zero(batch):
    student, teacher, _ = random_logits(batch, 5)
    student.requires_grad_()
    loss = kl_divergence(student, teacher, temperature=4, sample_mask=torch.zeros(batch, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert not student.grad.any()


def test_a_confident_student_stays_finite():
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0]])
    target = torch.tensor([2])
    for loss in (
        kl_divergence(student, teacher, temperature=1),
        class_temperature_kl(student, teacher, target, temperature=4, ratio=0.1),
        decoupled_kd(student, teacher, target, alpha=1, beta=8, temperature=4),
        soft_cross_entropy(student, teacher),
    ):
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite() and gradient.isfinite().all() and gradient.any()


def test_teachers_receive_no_gradient():
    student, teacher, target = random_logits(7, 5)
    student.requires_grad_()
    teacher.requires_grad_()
    loss = (
        kl_divergence(student, teacher, temperature=4)
        + class_temperature_kl(student, teacher, target, temperature=4, ratio=0.1)
        + decoupled_kd(student, teacher, target, alpha=1, beta=8, temperature=4)
        + soft_cross_entropy(student, teacher)
    )
    loss.backward()
    assert teacher.grad is None and student.grad.any()


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("ratio", [0.1, 1, 2])
def test_class_temperature_kl_is_the_loop(batch, ratio):
    student, teacher, target = random_logits(batch, 5)
    total = 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        tau = [3 if j == y else 3 * ratio for j in range(5)]
        p = softmax([z / scale for z, scale in zip(t, tau, strict=True)])
        q = softmax([z / scale for z, scale in zip(s, tau, strict=True)])
        total += 9 * divergence(p, q)
    loss = class_temperature_kl(student, teacher, target, temperature=3, ratio=ratio)
    assert loss.item() == pytest.approx(total / batch, rel=1e-11)


@settings(max_examples=50)
@given(logit_rows(2), st.floats(-5, 5))
def test_class_temperature_kl_is_shift_invariant_only_at_ratio_one(rows, shift):
    student, teacher, target = rows
    plain = kl_divergence(student, teacher, temperature=4)
    moved = class_temperature_kl(student + shift, teacher, target, temperature=4, ratio=1)
    torch.testing.assert_close(moved, plain, rtol=1e-9, atol=1e-9)


@given(logit_rows(2), st.floats(-5, 5), st.floats(0.1, 2))
def test_class_temperature_kl_of_centred_logits_is_shift_invariant(rows, shift, ratio):
    student, teacher, target = rows
    here, moved = (
        class_temperature_kl(centre(one), centre(other), target, temperature=4, ratio=ratio)
        for one, other in ((student, teacher), (student + shift, teacher - shift))
    )
    torch.testing.assert_close(here, moved, rtol=1e-9, atol=1e-9)


def test_class_temperature_kl_depends_on_the_shift_elsewhere():
    student, teacher, target = random_logits(7, 5)
    here = class_temperature_kl(student, teacher, target, temperature=4, ratio=0.1)
    moved = class_temperature_kl(student + 1, teacher, target, temperature=4, ratio=0.1)
    assert abs(here - moved) > 0.1


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_decoupled_kd_is_the_loop(batch, classes):
    student, teacher, target = random_logits(batch, classes)
    total = 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        p, q = softmax([z / 4 for z in t]), softmax([z / 4 for z in s])
        target_class = divergence([p[y], 1 - p[y]], [q[y], 1 - q[y]])
        p_others = [value / (1 - p[y]) for j, value in enumerate(p) if j != y]
        q_others = [value / (1 - q[y]) for j, value in enumerate(q) if j != y]
        total += 16 * (2 * target_class + 8 * divergence(p_others, q_others))
    loss = decoupled_kd(student, teacher, target, alpha=2, beta=8, temperature=4)
    assert loss.item() == pytest.approx(total / batch, rel=1e-9, abs=1e-9)


def test_decoupled_kd_puts_kd_together_again():
    # their eq. for one sample: KD = TCKD + (1 − p_target) NCKD
    student, teacher, target = random_logits(1, 7)
    doubt = 1 - F.softmax(teacher / 4, dim=1)[0, target.item()].item()
    ours = decoupled_kd(student, teacher, target, alpha=1, beta=doubt, temperature=4)
    torch.testing.assert_close(ours, kl_divergence(student, teacher, temperature=4))


@settings(max_examples=50)
@given(logit_rows(2))
def test_decoupled_kd_is_positive_and_zero_at_equality(rows):
    student, teacher, target = rows
    settings = {"alpha": 1, "beta": 8, "temperature": 4}
    assert decoupled_kd(student, teacher, target, **settings) >= -1e-12
    student.requires_grad_()
    loss = decoupled_kd(student, student, target, **settings)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("classes", [2, 7])
def test_decoupled_kd_gradient(classes):
    student, teacher, target = random_logits(3, classes)
    settings = {"alpha": 1, "beta": 8, "temperature": 4}
    torch.autograd.gradcheck(lambda s: decoupled_kd(s, teacher, target, **settings), student.requires_grad_())


@pytest.mark.parametrize("batch", BATCHES)
def test_soft_cross_entropy_is_torchs(batch):
    student, teacher, _ = random_logits(batch, 5)
    torch.testing.assert_close(soft_cross_entropy(student, teacher), F.cross_entropy(student, teacher.softmax(dim=1)))


@settings(max_examples=50)
@given(logit_rows(2))
def test_soft_cross_entropy_is_least_at_the_teacher(rows):
    student, teacher, _ = rows
    assert soft_cross_entropy(student, teacher) >= soft_cross_entropy(teacher, teacher) - 1e-12


def rectified_by_loop(logits: torch.Tensor, target: torch.Tensor, mode: str) -> list[list[float]]:
    rows = logits.tolist()
    for row, y in zip(rows, target.tolist(), strict=True):
        top = row.index(max(row))
        if top != y:
            if mode == "swap":
                row[y], row[top] = row[top], row[y]
            else:
                row[y] = row[top]
    return rows


@settings(max_examples=50)
@given(logit_rows(1, whole=True), st.sampled_from(["swap", "raise"]))
def test_rectify_is_the_loop_ties_included(rows, mode):
    logits, target = rows
    assert rectify(logits, target, mode=mode).tolist() == rectified_by_loop(logits, target, mode)


@settings(max_examples=50)
@given(logit_rows(1), st.sampled_from(["swap", "raise"]))
def test_rectify_puts_the_maximum_at_the_target(rows, mode):
    logits, target = rows
    original = logits.clone()
    rectified = rectify(logits, target, mode=mode)
    at_target = rectified.gather(1, target.unsqueeze(1)).squeeze(1)
    assert torch.equal(at_target, logits.max(dim=1).values)
    right = logits.argmax(dim=1) == target
    assert torch.equal(rectified[right], logits[right])
    assert torch.equal(logits, original)
    if mode == "swap":
        assert torch.equal(rectified.sort(dim=1).values, logits.sort(dim=1).values)
    else:
        others = F.one_hot(target, logits.shape[1]) == 0
        assert torch.equal(rectified[others], logits[others])


def test_rectify_is_a_target():
    logits = torch.randn(2, 3, dtype=torch.bfloat16, requires_grad=True)
    rectified = rectify(logits, torch.tensor([0, 1]), mode="swap")
    assert not rectified.requires_grad
    assert rectified.dtype == torch.bfloat16


def test_rectify_names_its_modes():
    with pytest.raises(ValueError, match="mode='exchange' must be 'swap' or 'raise'"):
        rectify(torch.zeros(1, 2), torch.tensor([0]), mode="exchange")
