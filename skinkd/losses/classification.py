"""Classification losses for imbalanced classes that torch does not have.

Logits are (B, K) and targets int64 (B,). Plain and weighted cross-entropy are
``torch.nn.functional.cross_entropy``.
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
        target: int64 (B,).
        gamma: γ ≥ 0; at 0 this is the (weighted) cross-entropy of torch.
        weight: (K,), of the classes; None is 1 for each.

    Returns:
        Scalar, ``Σ_b w_b l_b / Σ_b w_b``: the mean weighted as in torch's cross-entropy (ours).
    """
    log_probability = F.log_softmax(logits, dim=1).gather(1, target.unsqueeze(1)).squeeze(1)
    tiny = torch.finfo(log_probability.dtype).tiny
    # above 0, because a power below 1 has an infinite slope there
    doubt = -torch.expm1(log_probability)
    loss = -(doubt.clamp_min(tiny) ** gamma) * log_probability
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
        target: int64 (B,).
        log_prior: (K,), log of the classes' shares of the training images.
        tau: τ > 0; 1 is the paper's consistent choice.

    Returns:
        Scalar, the mean over the batch, in nats.
    """
    return F.cross_entropy(logits + tau * log_prior, target)
