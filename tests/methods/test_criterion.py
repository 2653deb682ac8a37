import math

import pytest
import torch

from skinkd.errors import UserError
from skinkd.methods.criterion import LOSSES, build_criterion, class_weights

COUNTS = [5, 20, 75]


def by_hand(
    name: str, logits: torch.Tensor, label: torch.Tensor, weight: list[float] | None, gamma: float, tau: float
) -> float:
    """The loss in plain loops."""
    total = share = 0.0
    for row, y in zip(logits.double().tolist(), label.tolist(), strict=True):
        if name == "logit_adjusted":
            row = [z + tau * math.log(n / sum(COUNTS)) for z, n in zip(row, COUNTS, strict=True)]
        p = math.exp(row[y]) / sum(map(math.exp, row))
        w = 1.0 if weight is None else weight[y]
        total += -w * math.log(p) * ((1 - p) ** gamma if name == "focal" else 1.0)
        share += w
    return total / share


@pytest.mark.parametrize("batch", [1, 2, 17])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("cross_entropy", "none"),
        ("cross_entropy", "inverse"),
        ("focal", "none"),
        ("focal", "effective_number"),
        ("logit_adjusted", "none"),
    ],
)
def test_losses_against_plain_loops(name: str, weights: str, dtype: torch.dtype, batch: int) -> None:
    generator = torch.Generator().manual_seed(batch)
    logits = (3 * torch.randn(batch, 3, generator=generator)).to(dtype).requires_grad_()
    label = torch.randint(3, (batch,), generator=generator)
    weight = class_weights(weights, COUNTS, beta=0.99)
    criterion = build_criterion(name, COUNTS, weight=weight, focal_gamma=1.5, logit_tau=0.7, label_smoothing=0.0)
    if dtype == torch.float64:
        criterion = criterion.double()
    loss = criterion(logits, label)
    expected = by_hand(name, logits, label, weight.tolist() if weight is not None else None, 1.5, 0.7)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert not criterion.state_dict()  # follows from the training part, not from a checkpoint


@pytest.mark.parametrize("batch", [1, 2, 17])
@pytest.mark.parametrize("weights", ["none", "inverse"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_against_plain_loops_and_torch(smoothing: float, weights: str, batch: int) -> None:
    generator = torch.Generator().manual_seed(batch)
    logits = (3 * torch.randn(batch, 3, generator=generator)).double()
    label = torch.randint(3, (batch,), generator=generator)
    weight = class_weights(weights, COUNTS, beta=0.99)
    given = [1.0] * 3 if weight is None else weight.tolist()
    total = share = 0.0
    for row, y in zip(logits.tolist(), label.tolist(), strict=True):
        target = [smoothing / 3 + (1 - smoothing if k == y else 0.0) for k in range(3)]
        normaliser = math.log(sum(map(math.exp, row)))
        total += sum(given[k] * target[k] * (normaliser - row[k]) for k in range(3))
        share += given[y]
    criterion = build_criterion(
        "cross_entropy", COUNTS, weight=weight, focal_gamma=2.0, logit_tau=1.0, label_smoothing=smoothing
    ).double()
    loss = criterion(logits, label)
    assert loss.item() == pytest.approx(total / share, rel=1e-6)
    whole = None if weight is None else weight.double()
    shares = torch.nn.functional.one_hot(label, 3).double()  # of images that are not mixed
    torch.testing.assert_close(criterion(logits, shares), loss)
    mixed = shares.lerp(torch.tensor([0.0, 0.5, 0.5]).double(), 0.3)
    total = share = 0.0
    for row, parts in zip(logits.tolist(), mixed.tolist(), strict=True):
        normaliser = math.log(sum(map(math.exp, row)))
        total += sum(given[k] * (smoothing / 3 + (1 - smoothing) * parts[k]) * (normaliser - row[k]) for k in range(3))
        share += sum(given[k] * parts[k] for k in range(3))
    assert criterion(logits, mixed).item() == pytest.approx(total / share, rel=1e-6)
    assert loss.equal(torch.nn.functional.cross_entropy(logits, label, weight=whole, label_smoothing=smoothing))


def test_wrong_settings() -> None:
    assert set(LOSSES) == {"cross_entropy", "focal", "logit_adjusted"}
    weight = torch.ones(3)
    for name, gamma, tau, smoothing, words in (
        ("focale", 2.0, 1.0, 0.0, "did you mean 'focal'"),
        ("focal", -1.0, 1.0, 0.0, "loss.focal_gamma=-1.0"),
        ("logit_adjusted", 2.0, 0.0, 0.0, "loss.logit_tau=0.0"),
        ("logit_adjusted", 2.0, 1.0, 0.0, "class_weights=none"),
        ("cross_entropy", 2.0, 1.0, 1.0, "loss.label_smoothing=1.0"),
        ("cross_entropy", 2.0, 1.0, -0.1, "loss.label_smoothing=-0.1"),
        ("focal", 2.0, 1.0, 0.1, "loss.name is focal; set loss.label_smoothing=0"),
        ("logit_adjusted", 2.0, 1.0, 0.1, "loss.name is logit_adjusted"),
    ):
        with pytest.raises(UserError, match=words):
            build_criterion(name, COUNTS, weight=weight, focal_gamma=gamma, logit_tau=tau, label_smoothing=smoothing)
