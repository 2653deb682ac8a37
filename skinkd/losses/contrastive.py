"""Contrastive representation distillation (CRD; Tian et al., ICLR 2020) between embeddings of unit length."""

from torch import Tensor

from skinkd.losses.numerics import at_least_float32


@at_least_float32
def contrast_scores(
    embedding: Tensor, memory: Tensor, positive: Tensor, negatives: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """``exp(⟨v_b, m_j⟩ / τ)`` for chosen rows j of a memory; the scores of CRD before they are normalised.

    Args:
        embedding: v, of unit length, (B, D).
        memory: m, a constant, (N, D).
        positive: the row of the memory for each embedding, int64 (B,).
        negatives: M other rows for each embedding, int64 (B, M).
        temperature: τ > 0.

    Returns:
        Of the positives (B,), and of the negatives (B, M).
    """
    # the products with all N rows, and their exponentials, cost less than gathering (B, M, D) numbers
    scores = (embedding @ memory.detach().T).div(temperature).exp()
    return scores.gather(1, positive[:, None])[:, 0], scores.gather(1, negatives)


@at_least_float32
def noise_contrastive_loss(positive: Tensor, others: Tensor, *, images: int) -> Tensor:
    """Noise-contrastive estimation over one positive and M negatives (Tian et al., eqs. 17-18).

    ``−mean_b [log h(s_b0) + Σ_m log (1 − h(s_bm))]`` with ``h(s) = s / (s + M / N)``; 1e-7 is added to the denominators,
    as in their code.

    Args:
        positive: s_b0 > 0, (B,): ``exp(cosine / τ)`` over a normalising constant.
        others: s_bm > 0, likewise, (B, M).
        images: N, the number of training images.
    """
    noise = others.shape[1] / images
    log_positive = (positive / (positive + noise + 1e-7)).log()
    # log (1 − h) is minus this logarithm: dividing by a number costs less than dividing a number by a tensor
    minus_log_others = ((others + noise + 1e-7) / noise).log().sum(dim=1)
    return (minus_log_others - log_positive).mean()
