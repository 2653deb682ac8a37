"""TSS-KD's step: cross-entropy of one view, and the reference's distillation from the other."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from staged import Staged, attach, batch_of, protocol
from torch import Tensor, nn
from torch.nn import functional as F

from skinkd.batch import Batch
from skinkd.errors import UserError
from skinkd.methods.supervised import Supervised
from skinkd.methods.tsskd import TSSKD

REFERENCE = Path(__file__).parents[1] / "reference"
WEIGHTS = {"ce": 1.0, "kd": 1.0}


class TwoAnswers(nn.Module):
    """Answers the student's view and then the teacher's, and notes how it was asked."""

    def __init__(self, student: Tensor, teacher: Tensor) -> None:
        super().__init__()
        self.answers = {"student": student, "teacher": teacher}
        self.asked: list[tuple[str, bool, bool]] = []

    def forward(self, image: Tensor) -> Tensor:
        view = "teacher" if image.flatten()[0] == 0 else "student"
        self.asked.append((view, torch.is_grad_enabled(), self.training))
        return self.answers[view]


def two_views(size: int) -> Tensor:
    """The teacher's view is black, the student's white."""
    return torch.stack([torch.zeros(size, 3, 4, 4), torch.ones(size, 3, 4, 4)], dim=1)


@pytest.mark.parametrize("name", [f"tsskd_{k}classes_seed{seed}" for k in (2, 7, 8) for seed in (0, 1, 2)])
@pytest.mark.parametrize(("temperature", "ratio"), [(4, 0.1), (4, 1), (4, 0.5), (2, 2), (8, 0.25)])
def test_the_step_equals_the_reference(name: str, temperature: float, ratio: float) -> None:
    with np.load(REFERENCE / f"{name}.npz") as file:
        data = {key: torch.as_tensor(file[key]) for key in file.files if file[key].dtype.kind in "fi"}
    logits, label = data["student_logits"].clone().requires_grad_(), data["target"].long()
    teacher = data["teacher_logits"].clone().requires_grad_()
    network = TwoAnswers(logits, teacher)
    weights = {"ce": 1.0, "kd": 0.5}
    method = TSSKD(network, temperature=temperature, ratio=ratio, **protocol(weights))  # type: ignore[arg-type]
    logged = attach(method)
    loss = method.training_step(Batch(two_views(len(label)), label, torch.arange(len(label))), 0)

    kd = data[f"loss_T{temperature}_ratio{ratio}"]
    ce = torch.stack(
        [-F.log_softmax(row, dim=0)[y] for row, y in zip(data["student_logits"], label, strict=True)]
    ).mean()
    torch.testing.assert_close(logged["train/kd"], kd, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logged["train/ce"], ce, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loss, ce + 0.5 * kd, rtol=1e-9, atol=1e-9)
    loss.backward()
    one_hot = F.one_hot(label, logits.shape[1])
    of_ce = (data["student_logits"].softmax(dim=1) - one_hot) / len(label)
    expected = of_ce + 0.5 * data[f"grad_T{temperature}_ratio{ratio}"]
    torch.testing.assert_close(logits.grad, expected, rtol=1e-8, atol=1e-8)
    assert teacher.grad is None
    assert sorted(network.asked) == [("student", True, True), ("teacher", False, True)]


def test_centred_logits_give_the_term_of_logits_less_their_mean() -> None:
    torch.manual_seed(0)
    student, teacher, label = torch.randn(6, 7) + 3, torch.randn(6, 7) - 2, torch.arange(6)
    found = []
    for answers, centred in (
        ((student, teacher), True),
        ([z - z.mean(1, keepdim=True) for z in (student, teacher)], False),
    ):
        settings = {"temperature": 4.0, "ratio": 0.1, "centre_logits": centred}
        method = TSSKD(TwoAnswers(*answers), **settings, **protocol(WEIGHTS))  # type: ignore[arg-type]
        logged = attach(method)
        method.training_step(Batch(two_views(6), label, label), 0)
        found.append(logged)
    torch.testing.assert_close(found[0]["train/kd"], found[1]["train/kd"])
    torch.testing.assert_close(found[0]["train/ce"], found[1]["train/ce"])  # a shift changes no softmax


@pytest.mark.parametrize("size", [1, 5])
def test_the_step_equals_plain_loops(size: int) -> None:
    torch.manual_seed(1)
    temperature, ratio = 4.0, 0.1
    method = TSSKD(Staged(), temperature=temperature, ratio=ratio, **protocol(WEIGHTS))  # type: ignore[arg-type]
    batch = batch_of(size, views=2)
    logged = attach(method)
    method.training_step(batch, 0)
    with torch.no_grad():
        teacher, student = (method.network(batch.image[:, view]).tolist() for view in (0, 1))
    ce = kd = 0.0
    for s, t, y in zip(student, teacher, batch.label.tolist(), strict=True):
        ce += -s[y] + math.log(sum(map(math.exp, s)))
        tau = [temperature if j == y else ratio * temperature for j in range(len(s))]
        p, q = ([math.exp(z / u) for z, u in zip(row, tau, strict=True)] for row in (t, s))
        kd += sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    assert logged["train/ce"].item() == pytest.approx(ce / size, rel=1e-9)
    assert logged["train/kd"].item() == pytest.approx(temperature**2 * kd / size, rel=1e-9)


def test_both_views_move_the_running_statistics() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(3))
    method = TSSKD(network, temperature=4, ratio=0.1, **protocol(WEIGHTS))  # type: ignore[arg-type]
    attach(method)
    method.training_step(Batch(two_views(4), torch.tensor([0, 1, 2, 0]), torch.arange(4)), 0)
    assert network[1].num_batches_tracked.item() == 2  # type: ignore[operator]


def test_without_its_term_it_is_supervised_training_on_the_second_view() -> None:
    network, batch = Staged(), batch_of(4, views=2)
    tsskd = TSSKD(network, temperature=4, ratio=0.1, **protocol({"ce": 1.0, "kd": 0.0}))  # type: ignore[arg-type]
    plain = Supervised(network, **protocol({"ce": 1.0}))  # type: ignore[arg-type]
    attach(tsskd)
    attach(plain)
    second = batch._replace(image=batch.image[:, 1:])
    torch.testing.assert_close(tsskd.training_step(batch, 0), plain.training_step(second, 0), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "value"), [("temperature", 0.0), ("temperature", -1.0), ("ratio", 0.0)])
def test_temperatures_must_be_positive(name: str, value: float) -> None:
    settings = {"temperature": 4.0, "ratio": 0.1, name: value}
    with pytest.raises(UserError, match=f"method.{name}={value} must be above 0"):
        TSSKD(Staged(), **settings, **protocol(WEIGHTS))  # type: ignore[arg-type]
