"""Losses between feature maps (B, C, H, W).

Targets and teachers are constants: no gradient flows to them. Every loss is computed in at least float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from skinkd.losses.numerics import at_least_float32, unit


@at_least_float32
def attention_map_distance(feature: Tensor, target_feature: Tensor) -> Tensor:
    """Squared distance of two normalised attention maps: ``mean_b Σ_hw (Q(f) − Q(t))²`` (SW-SKD's FRB, ours).

    ``Q(f) = v / ‖v‖₂`` with ``v = flatten(mean_c f²)``, the map of Zagoruyko & Komodakis (2017), so 0 ≤ loss
    ≤ 2 when no map is zero; the map of a zero feature is zero.

    Args:
        feature: (B, C, H, W).
        target_feature: (B, C', H, W), a constant; any number of channels.

    Returns:
        Scalar, the mean over the batch.
    """
    difference = _attention_map(feature) - _attention_map(target_feature.detach())
    return difference.square().sum(dim=1).mean()


@at_least_float32
def attention_transfer(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Attention transfer at one pair of layers (Zagoruyko & Komodakis, ICLR 2017, as in their code).

    ``mean_b,hw (Q(s) − Q(t))²``: :func:`attention_map_distance` over H·W. Their eq. 2 has the norm unsquared.
    The larger map is average-pooled to the size of the smaller.

    Args:
        student_map: (B, C, H, W).
        teacher_map: (B, C', H', W'), a constant.

    Returns:
        Scalar, the mean over batch and positions. The paper's weight, β = 1000, belongs to this reduction.
    """
    height = min(student_map.shape[2], teacher_map.shape[2])
    width = min(student_map.shape[3], teacher_map.shape[3])
    student, teacher = (_pooled(maps, (height, width)) for maps in (student_map, teacher_map))
    return attention_map_distance(student, teacher) / (height * width)


@at_least_float32
def hint_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared error of a regressed student map to the teacher's hint (FitNets; Romero et al., 2015).

    Their eq. 3 is ½‖·‖², a sum; ours is the mean over all elements, so that the weight does not depend on the
    shape.

    Args:
        student_map: (B, C, H, W), after the regressor.
        teacher_map: (B, C, H, W), a constant.
    """
    return F.mse_loss(student_map, teacher_map.detach())


@at_least_float32
def channel_relation(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Root mean squared difference of the channels' Gram matrices (SSD-KD; Wang et al., 2023, their code).

    ``sqrt(mean (G_s − G_t)²)`` with ``G = F Fᵀ / (C·H·W)`` for each image, F being (C, H·W); the mean is over
    all B·C·C entries. At equal Grams the gradient is 0, where the published code's is not finite.

    Maps of fewer positions than channels never form the C×C Grams: their distance follows from the products of positions,
    in float64 because it is a difference of large numbers (ours).

    Args:
        student_map: (B, C, H, W), after the regressor to the teacher's channels.
        teacher_map: (B, C, H', W'), a constant.
    """
    student, teacher = _unit_scale(student_map), _unit_scale(teacher_map.detach())
    batch, channels, positions = student.shape
    entries = batch * channels**2
    if max(positions, teacher.shape[2]) >= channels:
        difference = student @ student.transpose(1, 2) - teacher @ teacher.transpose(1, 2)
        # the norm's gradient at 0 is 0, unlike that of a square root
        return torch.linalg.vector_norm(difference) / entries**0.5
    student, teacher = student.double(), teacher.double()
    size = _gram_product(student, student) + _gram_product(teacher, teacher)
    squared = size - 2 * _gram_product(student, teacher)
    # of equal Grams only rounding is left, and its root has a huge gradient in a random direction
    apart = squared.detach() > 512 * torch.finfo(squared.dtype).eps * size.detach()
    distance = torch.where(apart, squared, 1.0).sqrt().where(apart, 0.0)
    return (distance / entries**0.5).to(student_map.dtype)


@at_least_float32
def hierarchical_context_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Hierarchical context loss of one stage (HCL of ReviewKD; Chen et al., CVPR 2021, section 3.4, their code).

    The mean squared error of the maps, and of the maps average-pooled to 4×4, 2×2 and 1×1 where these are smaller than H, with
    weights 1, 1/2, 1/4 and 1/8 in this order over the sum of those that occur.

    Args:
        student_map: (B, C, H, W), after the fusion to the shape of the teacher's.
        teacher_map: (B, C, H, W), a constant.
    """
    teacher_map = teacher_map.detach()
    loss, weight, total = F.mse_loss(student_map, teacher_map), 1.0, 1.0
    for size in (4, 2, 1):
        if size < student_map.shape[2]:
            weight /= 2
            total += weight
            student, teacher = (F.adaptive_avg_pool2d(maps, size) for maps in (student_map, teacher_map))
            loss = loss + weight * F.mse_loss(student, teacher)
    return loss / total


def _pooled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The maps (B, C, H, W) average-pooled to a size. Pooling to the size they have changes nothing, but takes time."""
    return maps if maps.shape[2:] == size else F.adaptive_avg_pool2d(maps, size)


def _attention_map(feature: Tensor) -> Tensor:
    return unit(feature.square().mean(dim=1).flatten(1))


def _unit_scale(feature: Tensor) -> Tensor:
    """F / sqrt(C·H·W), (B, C, H·W), so that the Gram is F Fᵀ."""
    flat = feature.flatten(2)
    return flat / (flat.shape[1] * flat.shape[2]) ** 0.5


def _gram_product(first: Tensor, second: Tensor) -> Tensor:
    """Σ_b ⟨F Fᵀ, E Eᵀ⟩ = Σ_b ‖Fᵀ E‖² of (B, C, P) and (B, C, P'): (P, P') numbers each instead of (C, C)."""
    return (first.transpose(1, 2) @ second).square().sum()
