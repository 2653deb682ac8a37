"""Losses between the logits of a teacher and of a student, and the rectification of a teacher's logits.

Logits are (B, K) and class indices (B,). Teachers are constants: no gradient flows to them. Every loss is
computed in at least float32 and is a scalar, the mean over the samples.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from skinkd.losses.numerics import at_least_float32


@at_least_float32
def kl_divergence(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, sample_mask: Tensor | None = None
) -> Tensor:
    """Softened Kullback-Leibler divergence from teacher to student (Hinton et al., 2015).

    ``T² · mean_b Σ_j p_j (log p_j − log q_j)`` in nats, with ``p = softmax(teacher / T)`` and
    ``q = softmax(student / T)``. T² keeps the size of the gradient when T changes (their section 2).

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K), a constant.
        temperature: T > 0.
        sample_mask: bool (B,); the mean is over the samples where it is true. Without any, the loss and its
            gradient are 0.
    """
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    return temperature**2 * _masked_mean(_kl_rows(student, teacher), sample_mask)


@at_least_float32
def class_temperature_kl(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, temperature: float, ratio: float
) -> Tensor:
    """KL divergence with one temperature for the true class, one for the others (TSS-KD; Liu et al., 2025, their code).

    ``T² · mean_b KL(softmax(t / τ) ‖ softmax(s / τ))`` with ``τ_j = T`` where j is the target and
    ``τ_j = ratio · T`` elsewhere. At ``ratio`` 1 this is :func:`kl_divergence`; at another
    ratio, adding a constant to a row of logits changes the value.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K), a constant: the logits of the other view.
        target: int64 (B,).
        temperature: T > 0, of the true class.
        ratio: temperature of the other classes over that of the true class, > 0.
    """
    true_class = _one_hot(target, student_logits)
    tau = torch.full_like(student_logits, ratio * temperature).masked_fill(true_class, temperature)
    student = F.log_softmax(student_logits / tau, dim=1)
    teacher = F.log_softmax(teacher_logits.detach() / tau, dim=1)
    return temperature**2 * _masked_mean(_kl_rows(student, teacher), None)


@at_least_float32
def decoupled_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    alpha: float,
    beta: float,
    temperature: float,
) -> Tensor:
    """Decoupled knowledge distillation (DKD; Zhao et al., CVPR 2022).

    ``T² · mean_b (alpha · TCKD + beta · NCKD)``. TCKD is the divergence of the two-way distribution (true
    class, any other class); NCKD that of the distribution over the other classes alone, which plain KD weighs
    by the teacher's doubt ``1 − p_target``. T² is from their code.

    Args:
        student_logits: (B, K), K ≥ 2.
        teacher_logits: (B, K), a constant.
        target: int64 (B,).
        alpha: weight of TCKD.
        beta: weight of NCKD.
        temperature: T > 0.
    """
    true_class = _one_hot(target, student_logits)
    student_binary, student_others = _decouple(student_logits / temperature, true_class)
    teacher_binary, teacher_others = _decouple(teacher_logits.detach() / temperature, true_class)
    target_class = _masked_mean(_kl_rows(student_binary, teacher_binary), None)
    other_classes = _masked_mean(_kl_rows(student_others, teacher_others), None)
    return temperature**2 * (alpha * target_class + beta * other_classes)


@at_least_float32
def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy against the teacher's softmax: ``−mean_b Σ_j softmax(t)_j log softmax(s)_j``, in nats.

    MSKD's loss between a teacher's branch and a student's exit (Pavel et al., 2025). Its minimum, at equal
    distributions, is the teacher's entropy.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K), a constant.
    """
    teacher = F.softmax(teacher_logits.detach(), dim=1)
    return _masked_mean(-(teacher * F.log_softmax(student_logits, dim=1)).sum(dim=1), None)


@at_least_float32
def virtual_teacher_kl(
    student_logits: Tensor, target: Tensor, *, correct_probability: float, temperature: float
) -> Tensor:
    """KL divergence from a teacher that no network computes (Tf-KD_reg; Yuan et al., CVPR 2020, eq. 9, their code).

    ``mean_b KL(softmax(u / T) ‖ softmax(s))``. The virtual teacher u is a on the true class and (1 − a) / (K − 1) on each other
    class. Their code softens these probabilities, not their logarithms, and the student not at all; so does this function.

    Args:
        student_logits: (B, K), K ≥ 2.
        target: int64 (B,).
        correct_probability: a, above 1/K and below 1.
        temperature: T > 0.
    """
    others = (1 - correct_probability) / (student_logits.shape[1] - 1)
    true_class = _one_hot(target, student_logits)
    virtual = torch.full_like(student_logits, others).masked_fill(true_class, correct_probability)
    teacher = F.log_softmax(virtual / temperature, dim=1)
    return _masked_mean(_kl_rows(F.log_softmax(student_logits, dim=1), teacher), None)


@at_least_float32
def centre(logits: Tensor) -> Tensor:
    """Each row of logits less its mean, so that a constant added to a row changes no term (ours).

    Args:
        logits: (B, K).

    Returns:
        (B, K), in float32 or wider.
    """
    return logits - logits.mean(dim=1, keepdim=True)


@at_least_float32
def standardize(logits: Tensor) -> Tensor:
    """Each row of logits with mean 0 and standard deviation 1 (Sun et al., CVPR 2024, algorithm 1).

    The deviation has the divisor K − 1, and 1e-7 is added to it, as in their code. So a row of equal logits becomes zeros.

    Args:
        logits: (B, K), K ≥ 2.

    Returns:
        (B, K), in float32 or wider.
    """
    centred = centre(logits)
    # the root of a row of equal logits has no gradient
    variance = centred.square().sum(dim=1, keepdim=True) / (logits.shape[1] - 1)
    deviation = torch.where(variance > 0, variance, 1.0).sqrt().where(variance > 0, 0.0)
    return centred / (deviation + 1e-7)


def rectify(logits: Tensor, target: Tensor, *, mode: str) -> Tensor:
    """Put the largest logit at the true class (SW-SKD's LRB; Zheng et al., 2025; both modes are ours).

    A row whose argmax is the target does not change. Of equal maxima the first is the argmax, so that a true
    class keeps its tie with an earlier class.

    Args:
        logits: (B, K).
        target: int64 (B,).
        mode: ``swap`` exchanges the logit of the target with the largest; ``raise`` sets it to the largest
            and leaves the others.

    Returns:
        (B, K), the dtype of ``logits``, detached.

    Raises:
        ValueError: ``mode`` is neither.
    """
    logits, true_class = logits.detach(), target.unsqueeze(1)
    top_class = logits.argmax(dim=1, keepdim=True)
    top = logits.gather(1, top_class)
    if mode == "raise":
        return logits.scatter(1, true_class, top)
    if mode == "swap":
        # in this order a row that is right already does not change
        return logits.scatter(1, top_class, logits.gather(1, true_class)).scatter(1, true_class, top)
    raise ValueError(f"mode={mode!r} must be 'swap' or 'raise'")


def _one_hot(target: Tensor, logits: Tensor) -> Tensor:
    return target.unsqueeze(1) == torch.arange(logits.shape[1], device=logits.device)


def _kl_rows(student_log: Tensor, teacher_log: Tensor) -> Tensor:
    """KL(teacher ‖ student) of each row of log-probabilities, (B,)."""
    return F.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(dim=1)


def _decouple(logits: Tensor, true_class: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, 2) of true and other, and (B, K) within the others."""
    others = logits.masked_fill(true_class, float("-inf"))
    every, other = torch.logsumexp(logits, dim=1), torch.logsumexp(others, dim=1)
    true = logits.masked_fill(~true_class, 0).sum(dim=1)
    # −inf at the true class becomes 0 in both networks, where its term of the divergence vanishes
    within = F.log_softmax(others, dim=1).masked_fill(true_class, 0)
    return torch.stack([true - every, other - every], dim=1), within


def _masked_mean(rows: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return rows.sum() / max(len(rows), 1)
    return rows.masked_fill(~mask, 0).sum() / mask.sum().clamp_min(1)
