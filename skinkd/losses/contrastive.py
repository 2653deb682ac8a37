"""Contrastive representation distillation (CRD; Tian et al., ICLR 2020) between embeddings of unit length."""

from torch import Tensor

from skinkd.losses.numerics import at_least_float32


@at_least_float32
def contrast_scores(embedding: Tensor, memory: Tensor, columns: Tensor, *, temperature: float) -> Tensor:
    """``exp(⟨v_b, m_j⟩ / τ)`` for chosen rows j of a memory; the scores of CRD before they are normalised.

    Args:
        embedding: v, of unit length, (B, D).
        memory: m, a constant, (N, D).
        columns: the rows of the memory for each embedding, int64 (B, M).
        temperature: τ > 0.

    Returns:
        (B, M).
    """
    # the products with all N rows, and their exponentials, cost less than gathering (B, M, D) numbers
    return (embedding @ memory.detach().T).div(temperature).exp().gather(1, columns)


@at_least_float32
def noise_contrastive_loss(scores: Tensor, *, images: int) -> Tensor:
    """Noise-contrastive estimation over one positive and M negatives (Tian et al., eqs. 17-18).

    ``−mean_b [log h(s_b0) + Σ_m log (1 − h(s_bm))]`` with ``h(s) = s / (s + M / N)``; 1e-7 is added to the denominators,
    as in their code.

    Args:
        scores: s > 0, (B, 1 + M): ``exp(cosine / τ)`` over a normalising constant. Column 0 is the positive.
        images: N, the number of training images.
    """
    negatives = scores.shape[1] - 1
    noise = negatives / images
    positive, others = scores[:, 0], scores[:, 1:]
    log_positive = (positive / (positive + noise + 1e-7)).log()
    # log (1 − h) is minus this logarithm: dividing by a number costs less than dividing a number by a tensor
    minus_log_others = ((others + noise + 1e-7) / noise).log().sum(dim=1)
    return (minus_log_others - log_positive).mean()
