"""The loss against hard labels: one for all methods of a comparison, so that imbalance is treated alike."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skinkd.errors import check_choice


def class_weights(kind: str, counts: Sequence[int], *, beta: float) -> Tensor | None:
    """Return a weight for each class (K,), or None for no weights.

    Args:
        kind: ``none``; ``inverse``: N/n_c (as SSD-KD's published code); ``effective_number``: (1 − β)/(1 − βⁿ), scaled to
            mean 1 (Cui et al., CVPR 2019).
        counts: images of each class in the training part, all above 0.
        beta: β of ``effective_number``.
    """
    check_choice("class_weights", kind, ("none", "inverse", "effective_number"))
    if kind == "none":
        return None
    count = torch.as_tensor(counts, dtype=torch.float64)
    if kind == "inverse":
        return (count.sum() / count).float()
    weight = (1 - beta) / (1 - beta**count)
    return (weight / weight.mean()).float()


class CrossEntropy(nn.Module):
    """Cross-entropy, optionally weighted by class; with weights, PyTorch's weighted mean over the batch.

    The weights are a buffer outside the checkpoint: they follow from the training part's counts.
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Scalar loss, in float32 or wider, for logits (B, K) and labels (B,)."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return F.cross_entropy(logits, label, weight=self.weight)
