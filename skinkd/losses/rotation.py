"""SSD-KD's self-supervision by rotation (Wang et al., 2023, after Xu et al., ECCV 2020, SSKD).

A batch holds B images in four rotations, 4B rows: image 0 at 0°, 90°, 180° and 270°, then image 1, and so on.
The rotated ones alone are 3B rows in the same order.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from skinkd.losses.numerics import at_least_float32, unit

ROTATIONS = 4


@at_least_float32
def rotation_similarity(projection: Tensor) -> Tensor:
    """Cosine similarity of each rotated view to each unrotated view of the batch.

    Args:
        projection: (4B, D), outputs of the self-supervision head.

    Returns:
        (3B, B): row 3b + r − 1 is image b in rotation r, column c is image c at 0°. Differentiable. A zero
        projection is similar to nothing, 0.

    Raises:
        ValueError: the number of rows is not a multiple of 4.
    """
    if len(projection) % ROTATIONS:
        raise ValueError(f"{len(projection)} rows are not {ROTATIONS} rotations of each image")
    views = unit(projection).unflatten(0, (-1, ROTATIONS))
    return views[:, 1:].flatten(0, 1) @ views[:, 0].T


@at_least_float32
def rotation_retrieval_loss(projection: Tensor) -> Tensor:
    """Cross-entropy of finding an image's 0° view among those of the batch, from each of its rotations.

    The logits are the raw cosines of :func:`rotation_similarity`, without a temperature: stage b of SSD-KD.

    Args:
        projection: (4B, D).

    Returns:
        Scalar, the mean over the 3B rotated views, in nats.
    """
    similarity = rotation_similarity(projection)
    return F.cross_entropy(similarity, rotated_index(similarity))


def rotated_index(similarity: Tensor) -> Tensor:
    """The image of each row of a (3B, B) similarity, int64 (3B,): 0, 0, 0, 1, 1, 1, …"""
    return torch.arange(len(similarity), device=similarity.device) // (ROTATIONS - 1)


def keep_mask(teacher_scores: Tensor, true_index: Tensor, *, keep_wrong: float) -> Tensor:
    """Which samples to distil: all that the teacher gets right, and the least wrong of the others.

    Error-level ranking (SSKD, SSD-KD): a sample's error level is the rank of its true class among the
    teacher's scores, 0 if right. Of the W wrong samples ``⌊keep_wrong · W⌋`` with the lowest ranks are kept.
    Among equal scores, and among samples of equal rank, the lowest index comes first (ours; the published
    sort leaves ties open).

    Args:
        teacher_scores: (N, K), logits or similarities: anything that orders the classes.
        true_index: int64 (N,).
        keep_wrong: fraction in [0, 1].

    Returns:
        bool (N,), computed without waiting for the device.
    """
    scores = teacher_scores.detach()
    true_score = scores.gather(1, true_index.unsqueeze(1))
    before = torch.arange(scores.shape[1], device=scores.device) < true_index.unsqueeze(1)
    rank = ((scores > true_score) | ((scores == true_score) & before)).sum(dim=1)
    wrong = (rank > 0).sum()
    kept = len(rank) - wrong + (wrong.double() * keep_wrong).floor()
    # the place of each sample in the order of ranks: the inverse of the sorting permutation
    place = rank.argsort(stable=True).argsort()
    return place < kept
