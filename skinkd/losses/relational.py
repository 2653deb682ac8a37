"""Relations between the rows of a batch: of pooled features (RKD) and of predictions (DIST).

RKD (Park et al., CVPR 2019) compares pooled features (N, C). Both of its losses see only the distances between the rows of a
batch, so the two networks may differ in C. Distances come from the Gram matrix of the centred features, in float64. In float32
this formula is wrong for features that are close to each other and far from 0, and N×N numbers cost nothing. The teacher is a
constant in every loss of this module.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from skinkd.losses.numerics import at_least_float32

# the number of triplets whose cosines the angle loss holds at once. It changes time and memory, not the value: a CPU is
# fastest while they stay in its cache, an accelerator with few, large kernels
CPU_CHUNK, ACCELERATOR_CHUNK = 2**18, 2**22


@at_least_float32
def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Distance-wise RKD (RKD-D).

    Smooth-L1 (β = 1) between the pairwise Euclidean distances of each network, divided by their mean over all
    pairs i ≠ j; the mean of the loss is over all N² pairs, with the diagonal at 0, as in the published code.

    Args:
        student: (N, C).
        teacher: (N, C'), a constant.

    Returns:
        Scalar. 0 for one row, or where all rows of both are equal; the gradient is finite at equal rows.
    """
    loss = F.smooth_l1_loss(_relative_distance(student), _relative_distance(teacher.detach()))
    return loss.to(student.dtype)


@at_least_float32
def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Angle-wise RKD (RKD-A).

    Smooth-L1 (β = 1) between the cosines of the angles that all triplets (j, i, k) make at i; the mean is
    over all N³ triplets, a cosine being 0 where i equals j or k, as in the published code.

    The published code builds the N×N×C difference vectors. The law of cosines needs only squared distances,
    ``cos_ijk = (d²_ij + d²_ik − d²_jk) / (2 d_ij d_ik)``: N³ numbers whatever C is, and no cancellation but
    that between the distances themselves (ours).

    Args:
        student: (N, C).
        teacher: (N, C'), a constant.

    Returns:
        Scalar. 0 for one row; the gradient is finite at equal rows.
    """
    loss = _AngleLoss.apply(*_angle_terms(student), *_angle_terms(teacher.detach()))
    return loss / max(len(student) ** 3, 1)


@at_least_float32
def inter_class_relation(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Inter-class relation of DIST (Huang et al., NeurIPS 2022, eq. 8): ``T² · mean_b (1 − ρ(p_b, q_b))``.

    ρ is Pearson's correlation over the K classes of ``p = softmax(teacher / T)`` and ``q = softmax(student / T)``; 1e-8 is
    added to its denominator, as in their code.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K), a constant.
        temperature: T > 0.
    """
    student, teacher = (F.softmax(logits / temperature, dim=1) for logits in (student_logits, teacher_logits.detach()))
    return temperature**2 * (1 - _correlation(student, teacher)).mean()


@at_least_float32
def intra_class_relation(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Intra-class relation of DIST (Huang et al., NeurIPS 2022, eq. 9): ``T² · mean_j (1 − ρ(p_·j, q_·j))``.

    As :func:`inter_class_relation`, with the correlation over the B samples of each class. One sample has no correlation: the
    loss is T² there, without a gradient.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K), a constant.
        temperature: T > 0.
    """
    student, teacher = (F.softmax(logits / temperature, dim=1) for logits in (student_logits, teacher_logits.detach()))
    return temperature**2 * (1 - _correlation(student.T, teacher.T)).mean()


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of each row of a and b (N, M), (N,); 0 where a row is constant."""
    a, b = (rows - rows.mean(dim=1, keepdim=True) for rows in (a, b))
    lengths = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    return (a * b).sum(dim=1) / (lengths + 1e-8)


def _squared_distance(features: Tensor) -> Tensor:
    """(N, N) in float64, exactly 0, with gradient 0, on the diagonal and for rows equal to rounding."""
    features = features.double()
    centred = features - features.mean(dim=0)
    gram = centred @ centred.T
    scale = gram.diagonal().unsqueeze(0) + gram.diagonal().unsqueeze(1)
    distance = scale - 2 * gram
    # of equal rows only rounding is left, and its root has a huge gradient in a random direction
    rounding = 512 * torch.finfo(distance.dtype).eps * scale.detach()
    return distance.masked_fill(distance.detach() <= rounding, 0)


def _relative_distance(features: Tensor) -> Tensor:
    squared = _squared_distance(features)
    apart = squared != 0
    distance = torch.where(apart, squared, 1.0).sqrt().where(apart, 0.0)
    pairs = len(features) * (len(features) - 1)
    mean = distance.sum() / max(pairs, 1)
    return distance / torch.where(mean > 0, mean, 1.0)


def _angle_terms(features: Tensor) -> tuple[Tensor, Tensor]:
    """Squared and inverse distances (N, N), both 0 for equal rows, in the features' own precision."""
    squared = _squared_distance(features)
    apart = squared != 0
    inverse = torch.where(apart, squared, 1.0).rsqrt().where(apart, 0.0)
    return squared.to(features.dtype), inverse.to(features.dtype)


class _AngleLoss(torch.autograd.Function):
    """Sum over all (i, j, k) of the smooth-L1 loss between the cosines of two networks.

    It takes a few points i at a time, and the gradient together with the value, so that the N³ cosines are
    never held at once.
    """

    @staticmethod
    def forward(ctx: Any, squared: Tensor, inverse: Tensor, teacher_squared: Tensor, teacher_inverse: Tensor) -> Tensor:
        total = squared.new_zeros(())
        grad_squared, grad_inverse = torch.zeros_like(squared), torch.zeros_like(inverse)
        chunk = CPU_CHUNK if squared.device.type == "cpu" else ACCELERATOR_CHUNK
        points = max(1, chunk // max(1, squared.numel()))
        for start in range(0, len(squared), points):
            i = slice(start, start + points)
            student = _scaled_cosine(squared, inverse, i)
            difference = (student * inverse[i].unsqueeze(2)).sub_(
                _scaled_cosine(teacher_squared, teacher_inverse, i).mul_(teacher_inverse[i].unsqueeze(2))
            )
            slope = difference.clamp(-1, 1)
            total += (difference.sub_(slope / 2)).mul_(slope).sum()
            # cos_ijk = cos_ikj, hence the factors of 2
            grad_inverse[i] = 2 * student.mul_(slope).sum(dim=2)
            slope.mul_(0.5 * inverse[i].unsqueeze(2)).mul_(inverse[i].unsqueeze(1))
            grad_squared[i] += 2 * slope.sum(dim=2)
            grad_squared -= slope.sum(dim=0)
        ctx.save_for_backward(grad_squared, grad_inverse)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_squared, grad_inverse = ctx.saved_tensors
        return grad * grad_squared, grad * grad_inverse, None, None


def _scaled_cosine(squared: Tensor, inverse: Tensor, i: slice) -> Tensor:
    """``d_ij · cos_ijk = (d²_ij + d²_ik − d²_jk) / (2 d_ik)`` for the points i, (I, N, N)."""
    doubled = (squared[i].unsqueeze(2) + squared[i].unsqueeze(1)).sub_(squared)
    return doubled.mul_(0.5 * inverse[i].unsqueeze(1))
