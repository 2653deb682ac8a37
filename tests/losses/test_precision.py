"""What all losses share: precision, autocast, and no wait for the device."""

import pytest
import torch
from waits import NoWait

from skinkd.losses.classification import focal_loss, logit_adjusted_cross_entropy
from skinkd.losses.feature import attention_map_distance, attention_transfer, channel_relation, hint_loss
from skinkd.losses.logit import (
    class_temperature_kl,
    decoupled_kd,
    kl_divergence,
    rectify,
    soft_cross_entropy,
)
from skinkd.losses.relational import rkd_angle, rkd_distance
from skinkd.losses.rotation import keep_mask, rotated_index, rotation_retrieval_loss, rotation_similarity

CLASSES = 7


def rotation_kl(student, teacher):
    similarity = rotation_similarity(teacher)
    kept = keep_mask(similarity, rotated_index(similarity), keep_wrong=0.75)
    return kl_divergence(rotation_similarity(student), similarity, temperature=0.5, sample_mask=kept)


def rectified_kl(student, teacher):
    # class 3 never appears
    target = torch.arange(len(student), device=student.device) % 3
    return kl_divergence(student, rectify(teacher, target, mode="swap"), temperature=3)


def with_target(loss, **options):
    def call(student, teacher):
        return loss(student, teacher, torch.arange(len(student), device=student.device) % 3, **options)

    return call


def without_teacher(loss, **options):
    def call(student, teacher):
        return loss(student, torch.arange(len(student), device=student.device) % 3, **options)

    return call


WEIGHT = torch.linspace(0.5, 2, CLASSES)
LOGITS, MAPS, POOLED, PROJECTION = (CLASSES,), (6, 4, 3), (16,), (4, 8)
LOSSES = {
    "kl_divergence": (LOGITS, lambda s, t: kl_divergence(s, t, temperature=4)),
    "rectified_kl": (LOGITS, rectified_kl),
    "class_temperature_kl": (LOGITS, with_target(class_temperature_kl, temperature=4, ratio=0.1)),
    "decoupled_kd": (LOGITS, with_target(decoupled_kd, alpha=1, beta=8, temperature=4)),
    "soft_cross_entropy": (LOGITS, soft_cross_entropy),
    "focal_loss": (LOGITS, without_teacher(focal_loss, gamma=2, weight=WEIGHT)),
    "logit_adjusted": (
        LOGITS,
        without_teacher(logit_adjusted_cross_entropy, log_prior=WEIGHT.log(), tau=1),
    ),
    "attention_map_distance": (MAPS, attention_map_distance),
    "attention_transfer": (MAPS, attention_transfer),
    "hint_loss": (MAPS, hint_loss),
    "channel_relation": (MAPS, channel_relation),
    "rkd_distance": (POOLED, rkd_distance),
    "rkd_angle": (POOLED, rkd_angle),
    "rotation_kl": (PROJECTION, lambda s, t: rotation_kl(s.flatten(0, 1), t.flatten(0, 1))),
    "rotation_retrieval_loss": (PROJECTION, lambda s, t: rotation_retrieval_loss(s.flatten(0, 1))),
}


def inputs(shape: tuple[int, ...], batch: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    student, teacher = (2 * torch.randn(2, batch, *shape, generator=generator)).to(dtype)
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_computed_in_float32_or_wider(name, dtype, batch):
    shape, loss = LOSSES[name]
    student, teacher = inputs(shape, batch, dtype)
    value = loss(student, teacher)
    assert value.shape == () and value.dtype == torch.promote_types(dtype, torch.float32)

    precise = student.detach().double().requires_grad_()
    expected = loss(precise, teacher.double())
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)

    value.backward()
    expected.backward()
    assert student.grad.dtype == dtype
    # the gradient is rounded once, to the dtype of the input
    rounding = max(torch.finfo(dtype).eps, 1e-5)
    scale = precise.grad.abs().max().item()
    torch.testing.assert_close(student.grad.double(), precise.grad, rtol=rounding, atol=1e-5 * scale + 1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_changes_nothing(name):
    shape, loss = LOSSES[name]
    student, teacher = inputs(shape, 7, torch.float32)
    expected = loss(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(*(torch.autograd.grad(loss, student)[0] for loss in (value, expected)))


@pytest.mark.parametrize("name", LOSSES)
def test_the_host_never_waits(name):
    shape, loss = LOSSES[name]
    student, teacher = inputs(shape, 7, torch.float32)
    with NoWait():
        loss(student, teacher).backward()


def test_no_wait_notices_waits():
    values = torch.randn(3)
    waits = (
        lambda: values.sum().item(),
        lambda: values[values > 0],
        lambda: bool(values.sum() > 0),
        lambda: torch.tensor(3.0),
    )
    for wait in waits:
        with pytest.raises(AssertionError), NoWait():
            wait()


# focal_loss and logit_adjusted hold their class weights on the CPU here
@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"focal_loss", "logit_adjusted"}))
def test_cuda_equals_the_cpu_without_a_wait(name):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    shape, loss = LOSSES[name]
    student, teacher = inputs(shape, 7, torch.float32)
    expected = loss(student, teacher)
    expected.backward()
    moved, teacher = student.detach().cuda().requires_grad_(), teacher.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        value = loss(moved, teacher)
        value.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(value.cpu(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moved.grad.cpu(), student.grad, rtol=1e-4, atol=1e-5)
