"""The loss against the labels: one for all methods of a comparison, so that imbalance is treated alike."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skinkd.errors import UserError, check_choice, check_range
from skinkd.losses.classification import focal_loss, logit_adjusted_cross_entropy, shared_cross_entropy

LOSSES = ("cross_entropy", "focal", "logit_adjusted")


def build_criterion(
    name: str,
    counts: Sequence[int],
    *,
    weight: Tensor | None,
    focal_gamma: float,
    logit_tau: float,
    label_smoothing: float,
) -> nn.Module:
    """Return the loss against the labels, ``(logits (B, K), label) -> scalar``.

    ``label`` is int64 (B,), or float (B, K) for a mixed batch: the shares of the classes. See
    :mod:`skinkd.losses.classification` for what the loss against shares is.

    Args:
        name: "cross_entropy" | "focal" | "logit_adjusted".
        counts: images of each class in the training part, all above 0.
        weight: of each class, (K,), or None; see :func:`class_weights`.
        focal_gamma: γ of the focal loss, at least 0.
        logit_tau: τ of the logit adjustment, above 0.
        label_smoothing: ε of the cross-entropy, at least 0 and below 1.

    Raises:
        UserError: an unknown name, a number out of range, class weights with the logit adjustment, or label smoothing with
            another loss than the cross-entropy.
    """
    check_choice("loss.name", name, LOSSES)
    if not 0 <= label_smoothing < 1:
        raise UserError(f"loss.label_smoothing={label_smoothing} is out of range; it must be at least 0 and below 1")
    if label_smoothing and name != "cross_entropy":
        raise UserError(
            f"loss.label_smoothing={label_smoothing} is of loss.name=cross_entropy alone, and loss.name is {name}; set "
            "loss.label_smoothing=0"
        )
    if name == "focal":
        check_range("loss.focal_gamma", focal_gamma, 0)
        return Focal(weight, gamma=focal_gamma)
    if name == "logit_adjusted":
        if not logit_tau > 0:
            raise UserError(f"loss.logit_tau={logit_tau} is out of range; it must be above 0")
        if weight is not None:
            raise UserError(
                "loss.name=logit_adjusted balances the classes by itself and takes no class_weights; set "
                "class_weights=none"
            )
        return LogitAdjusted(counts, tau=logit_tau)
    return CrossEntropy(weight, label_smoothing=label_smoothing)


def class_weights(kind: str, counts: Sequence[int], *, beta: float) -> Tensor | None:
    """Return a weight for each class (K,), or None for no weights.

    Args:
        kind: ``none``; ``inverse``: N/n_c (as SSD-KD's published code); ``effective_number``: (1 − β)/(1 − βⁿ),
            scaled to mean 1 (Cui et al., CVPR 2019).
        counts: images of each class in the training part, all above 0.
        beta: β of ``effective_number``.
    """
    check_choice("class_weights", kind, ("none", "inverse", "effective_number"))
    if kind == "none":
        return None
    count = torch.as_tensor(counts, dtype=torch.float64)
    if kind == "effective_number" and not 0 <= beta < 1:
        raise UserError(f"effective_number_beta={beta} is out of range; it must be at least 0 and below 1")
    if kind == "inverse":
        return (count.sum() / count).float()
    weight = (1 - beta) / (1 - beta**count)
    return (weight / weight.mean()).float()


class CrossEntropy(nn.Module):
    """Cross-entropy, optionally weighted by class; with weights, PyTorch's weighted mean over the batch.

    With label smoothing ε (Szegedy et al., CVPR 2016, section 7) the label is 1 − ε + ε/K at its class and ε/K at the others;
    with weights too, PyTorch's: each class's part of the loss by its own weight, divided by the weights of the labels.
    The weights are a buffer outside the checkpoint: they follow from the training part's counts.
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None, *, label_smoothing: float) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Scalar loss, in float32 or wider, for logits (B, K) and labels (B,) or shares (B, K)."""
        if label.is_floating_point():
            return shared_cross_entropy(logits, label, weight=self.weight, label_smoothing=self.label_smoothing)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return F.cross_entropy(logits, label, weight=self.weight, label_smoothing=self.label_smoothing)


class Focal(nn.Module):
    """Focal loss, optionally weighted by class: :func:`skinkd.losses.classification.focal_loss`."""

    weight: Tensor | None

    def __init__(self, weight: Tensor | None, *, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Scalar loss, in float32 or wider, for logits (B, K) and labels (B,) or shares (B, K)."""
        return focal_loss(logits, label, gamma=self.gamma, weight=self.weight)


class LogitAdjusted(nn.Module):
    """Logit-adjusted cross-entropy: :func:`skinkd.losses.classification.logit_adjusted_cross_entropy`.

    The prior is a buffer outside the checkpoint: it follows from the training part's counts.
    """

    log_prior: Tensor

    def __init__(self, counts: Sequence[int], *, tau: float) -> None:
        super().__init__()
        self.tau = tau
        count = torch.as_tensor(counts, dtype=torch.float64)
        self.register_buffer("log_prior", (count / count.sum()).log().float(), persistent=False)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Scalar loss, in float32 or wider, for logits (B, K) and labels (B,) or shares (B, K)."""
        return logit_adjusted_cross_entropy(logits, label, log_prior=self.log_prior, tau=self.tau)
