import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from skinkd.losses.classification import focal_loss, logit_adjusted_cross_entropy, shared_cross_entropy

BATCHES = [1, 2, 7]


def case(batch: int, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    logits = 3 * torch.randn(batch, classes, dtype=torch.float64, generator=generator)
    return logits, torch.randint(classes, (batch,), generator=generator)


def probabilities(row: list[float]) -> list[float]:
    powers = [math.exp(z) for z in row]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("gamma", [0, 0.5, 2])
@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.0, 5.0]])
def test_focal_loss_is_the_loop(batch, gamma, weight):
    logits, target = case(batch)
    target[0] = 3  # not the class of weight 0 alone
    total = count = 0.0
    for row, y in zip(logits.tolist(), target.tolist(), strict=True):
        p, w = probabilities(row)[y], weight[y] if weight else 1.0
        total -= w * (1 - p) ** gamma * math.log(p)
        count += w
    weights = torch.tensor(weight, dtype=torch.float64) if weight else None
    loss = focal_loss(logits, target, gamma=gamma, weight=weights)
    assert loss.item() == pytest.approx(total / count, rel=1e-11)


@pytest.mark.parametrize("weighted", [False, True])
def test_focal_loss_at_gamma_zero_is_cross_entropy(weighted):
    logits, target = case(7)
    weight = torch.tensor([1.0, 2.0, 0.5, 5.0], dtype=torch.float64) if weighted else None
    torch.testing.assert_close(
        focal_loss(logits, target, gamma=0, weight=weight), F.cross_entropy(logits, target, weight)
    )


@given(st.floats(0, 5), st.floats(0, 5))
def test_focal_loss_falls_with_gamma(low, step):
    logits, target = case(7)
    assert focal_loss(logits, target, gamma=low + step) <= focal_loss(logits, target, gamma=low) + 1e-15


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2])
def test_focal_loss_of_a_certain_network_is_finite(gamma):
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4]], requires_grad=True)
    right = focal_loss(logits, torch.tensor([0, 1]), gamma=gamma)
    right.backward()
    assert right.item() == 0 and logits.grad.isfinite().all()
    logits.grad = None
    wrong = focal_loss(logits, torch.tensor([1, 0]), gamma=gamma)
    wrong.backward()
    assert wrong.item() == pytest.approx(1e4) and logits.grad.isfinite().all()


def test_focal_loss_of_classes_without_weight_is_zero():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0, 0]), gamma=2, weight=torch.tensor([0.0, 1.0, 1.0]))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


@pytest.mark.parametrize("gamma", [0.5, 2])
def test_focal_loss_gradient(gamma):
    logits, target = case(3)
    assert torch.autograd.gradcheck(lambda z: focal_loss(z, target, gamma=gamma), logits.requires_grad_())


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("tau", [0.5, 1, 2])
def test_logit_adjusted_cross_entropy_is_the_papers_pairwise_form(batch, tau):
    # log(1 + Σ_{j≠y} (π_j / π_y)^τ e^{z_j − z_y})
    logits, target = case(batch)
    prior = [0.5, 0.3, 0.15, 0.05]
    total = 0.0
    for row, y in zip(logits.tolist(), target.tolist(), strict=True):
        margins = ((prior[j] / prior[y]) ** tau * math.exp(row[j] - row[y]) for j in range(4) if j != y)
        total += math.log1p(sum(margins))
    log_prior = torch.tensor(prior, dtype=torch.float64).log()
    loss = logit_adjusted_cross_entropy(logits, target, log_prior=log_prior, tau=tau)
    assert loss.item() == pytest.approx(total / batch, rel=1e-11)


def test_equal_priors_change_nothing():
    logits, target = case(7)
    log_prior = torch.full((4,), 0.25, dtype=torch.float64).log()
    torch.testing.assert_close(
        logit_adjusted_cross_entropy(logits, target, log_prior=log_prior, tau=1),
        F.cross_entropy(logits, target),
    )


def test_a_class_missing_from_training_leaves_the_gradient_finite():
    logits = torch.randn(5, 3, requires_grad=True)
    target = torch.tensor([0, 1, 1, 0, 0])
    log_prior = torch.tensor([0.6, 0.4, 0.0]).log()
    loss = logit_adjusted_cross_entropy(logits, target, log_prior=log_prior, tau=1)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all() and not logits.grad[:, 2].any()


# ------------------------------------------------------------------ against shares of classes


def against(name, logits, target, weight):
    """One of the three losses; ``target`` is int64 (B,) or shares (B, K)."""
    if name == "focal":
        return focal_loss(logits, target, gamma=1.5, weight=weight)
    if name == "logit_adjusted":
        prior = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()
        return logit_adjusted_cross_entropy(logits, target, log_prior=prior, tau=0.7)
    if target.is_floating_point():
        return shared_cross_entropy(logits, target, weight=weight, label_smoothing=0.0)
    return F.cross_entropy(logits, target, weight)


LOSSES = [
    ("cross_entropy", None),
    ("cross_entropy", [1.0, 2.0, 0.5, 5.0]),
    ("focal", None),
    ("focal", [1.0, 2.0, 0.5, 5.0]),
    ("logit_adjusted", None),
]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("name", "weight"), LOSSES)
def test_the_loss_against_shares_is_the_loop(name, weight, batch):
    """Each class of each image counts as a sample of its own, by its share."""
    logits, _ = case(batch)
    share = torch.rand(batch, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(batch))
    share /= share.sum(dim=1, keepdim=True)
    weights = torch.tensor(weight, dtype=torch.float64) if weight else None
    total = count = 0.0
    for b in range(batch):
        for k in range(4):
            part = share[b, k].item() * (weight[k] if weight else 1.0)
            total += part * against(name, logits[b : b + 1], torch.tensor([k]), None).item()
            count += part
    assert against(name, logits, share, weights).item() == pytest.approx(total / count, rel=1e-11)


@pytest.mark.parametrize(("name", "weight"), LOSSES)
def test_shares_of_one_class_give_the_loss_against_classes(name, weight):
    logits, target = case(7)
    weights = torch.tensor(weight, dtype=torch.float64) if weight else None
    torch.testing.assert_close(
        against(name, logits, F.one_hot(target, 4).double(), weights), against(name, logits, target, weights)
    )


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_against_shares_a_certain_network_has_finite_losses(gamma):
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4]], requires_grad=True)
    share = torch.tensor([[0.3, 0.7], [0.0, 1.0]])
    for loss in (
        focal_loss(logits, share, gamma=gamma),
        shared_cross_entropy(logits, share, weight=None, label_smoothing=0.0),
    ):
        assert loss.isfinite()
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.isfinite().all()
