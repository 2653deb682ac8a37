"""Classification losses for imbalanced classes that torch does not have.

Logits are (B, K). A target is int64 (B,), the class of each image; or float (B, K), the shares of the classes in a mixed
image, which sum to 1. The loss against shares is linear in them, and equals the loss against classes where each share is 0
or 1. Plain and weighted cross-entropy against classes are ``torch.nn.functional.cross_entropy``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from skinkd.losses.numerics import at_least_float32


@at_least_float32
def focal_loss(logits: Tensor, target: Tensor, *, gamma: float, weight: Tensor | None = None) -> Tensor:
    """Focal loss over a softmax: ``−w_y (1 − p_y)^γ log p_y`` (Lin et al., ICCV 2017, eqs. 4-5, there for a
    sigmoid).

    Args:
        logits: (B, K).
        target: int64 (B,), or shares (B, K).
        gamma: γ ≥ 0; at 0 this is the (weighted) cross-entropy of torch.
        weight: (K,), of the classes; None is 1 for each.

    Returns:
        Scalar, ``Σ_b w_b l_b / Σ_b w_b``: the mean weighted as in torch's cross-entropy (ours). Against shares y it is
        ``Σ_bj y_bj w_j l_bj / Σ_bj y_bj w_j`` with the loss l_bj against class j (ours).
    """
    log_probability = F.log_softmax(logits, dim=1)
    if not target.is_floating_point():
        log_probability = log_probability.gather(1, target.unsqueeze(1)).squeeze(1)
    tiny = torch.finfo(log_probability.dtype).tiny
    # above 0, because a power below 1 has an infinite slope there
    doubt = -torch.expm1(log_probability)
    loss = -(doubt.clamp_min(tiny) ** gamma) * log_probability
    if target.is_floating_point():
        return _shared_mean(loss, target, weight)
    if weight is None:
        return loss.sum() / max(len(loss), 1)
    sample_weight = weight[target]
    return (sample_weight * loss).sum() / sample_weight.sum().clamp_min(tiny)


@at_least_float32
def logit_adjusted_cross_entropy(logits: Tensor, target: Tensor, *, log_prior: Tensor, tau: float) -> Tensor:
    """Cross-entropy of ``logits + τ · log π`` (Menon et al., ICLR 2021, eq. 10), whose optimum is the
    balanced error.

    The unadjusted logits are the ones to predict with.

    Args:
        logits: (B, K).
        target: int64 (B,), or shares (B, K).
        log_prior: (K,), log of the classes' shares of the training images.
        tau: τ > 0; 1 is the paper's consistent choice.

    Returns:
        Scalar, the mean over the batch, in nats.
    """
    return F.cross_entropy(logits + tau * log_prior, target)


@at_least_float32
def shared_cross_entropy(logits: Tensor, share: Tensor, *, weight: Tensor | None, label_smoothing: float) -> Tensor:
    """Cross-entropy against shares of classes: ``Σ_bj y_bj w_j (−log p_bj) / Σ_bj y_bj w_j``, in nats (ours).

    So shares of 0 and 1 give torch's weighted cross-entropy against classes. Torch's own cross-entropy against shares
    divides by B, also with weights. Label smoothing ε puts (1 − ε) y + ε/K in the place of the first y, as torch's.

    Args:
        logits: (B, K).
        share: y, (B, K).
        weight: w, (K,), of the classes; None is 1 for each.
        label_smoothing: ε, at least 0 and below 1.
    """
    loss = -F.log_softmax(logits, dim=1)
    mean = _shared_mean(loss, share, weight)
    if not label_smoothing:
        return mean
    even = torch.full_like(share, 1 / share.shape[1])
    weights = torch.ones_like(loss[0]) if weight is None else weight
    # _shared_mean divides by the weights of its own shares, and torch by those of the labels
    of_even = _shared_mean(loss, even, weight) * (even * weights).sum() / (share * weights).sum()
    return (1 - label_smoothing) * mean + label_smoothing * of_even


def _shared_mean(loss: Tensor, share: Tensor, weight: Tensor | None) -> Tensor:
    """The mean of losses (B, K) against each class, weighted by the shares (B, K) and the weights (K,) of the classes."""
    share = share if weight is None else share * weight
    return (share * loss).sum() / share.sum().clamp_min(torch.finfo(loss.dtype).tiny)
