"""SW-SKD's step against the reference numbers, and each ablation against loops over samples."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from staged import CLASSES, Staged, attach, batch_of, protocol
from torch import Tensor, nn

from skinkd.batch import Batch
from skinkd.config.identity import identity
from skinkd.errors import UserError
from skinkd.methods.swskd import SWSKD
from skinkd.models.backbone import Features

REFERENCE = Path(__file__).parents[1] / "reference"
SETTINGS: dict[str, Any] = {
    "temperature": 3.0,
    "rectify_mode": "swap",
    "target_stage": "next",
    "attention": "gate",
    "attention_scope": "last",
    "gate_reduction": 2,
    "gate_kernel": 3,
    "simam_lambda": 1e-4,
    "head_reduction": 2,
}
WEIGHTS = {"ce": 1.0, "lrb": 0.5, "frb": 2.0, "gate_ce": 0.7}


def make(weights: dict[str, float] | None = None, **changes: Any) -> SWSKD:
    torch.manual_seed(0)
    settings = SETTINGS | changes
    return SWSKD(Staged(), **settings, **protocol(WEIGHTS | (weights or {}))).double()  # type: ignore[arg-type]


# ------------------------------------------------------------------ the reference


class Fixed(nn.Module):
    """Gives the reference's stages and the last stage's logits, whatever the image."""

    def __init__(self, stages: Tensor, logits: Tensor) -> None:
        super().__init__()
        self.stages, self.logits = stages, logits
        self.num_classes = logits.shape[1]
        self.stage_shapes = tuple(tuple(stage.shape[1:]) for stage in stages)

    def features(self, image: Tensor) -> Features:
        return Features(stages=tuple(self.stages), pooled=image, logits=self.logits)


class FixedHead(nn.Module):
    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, stage: Tensor) -> tuple[Tensor, Tensor]:
        return stage, self.logits


class FixedAttention(nn.Module):
    """The reference's attention of each stage, in the order in which the stages are corrected."""

    def __init__(self, attention: Tensor) -> None:
        super().__init__()
        self.attention = list(attention)

    def forward(self, features: Tensor) -> Tensor:
        return self.attention.pop(0)


@pytest.mark.parametrize("name", ["swskd_T1_seed1", "swskd_T3_seed0"])
def test_the_step_equals_the_reference(name: str) -> None:
    with np.load(REFERENCE / f"{name}.npz") as file:
        data = {key: torch.as_tensor(file[key]) for key in file.files if file[key].dtype.kind in "fi"}
    logits = data["stage_logits"].clone().requires_grad_()
    stages = data["stage_features"].clone().requires_grad_()
    weights = {
        "ce": 1.0,
        "lrb": data["weight_logit"].item(),
        "frb": data["weight_feature"].item(),
        "gate_ce": 0.0,
    }
    settings = SETTINGS | {"temperature": data["temperature"].item(), "attention_scope": "per_stage"}
    method = SWSKD(Fixed(stages, logits[-1]), **settings, **protocol(weights))  # type: ignore[arg-type]
    method.heads = nn.ModuleList(FixedHead(z) for z in logits[:-1])
    method.attention = FixedAttention(data["stage_attention"])
    logged = attach(method)
    size = len(data["target"])
    batch = Batch(torch.zeros(size, 1, 3, 4, 4), data["target"].long(), torch.arange(size))
    loss = method.training_step(batch, 0)
    expected = {
        "train/ce": data["ce"].sum(),
        "train/lrb": data["logit_steps"].sum(),
        "train/frb": data["feature_steps"].sum(),
        "train/loss": data["total"],
    }
    assert set(logged) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(logged[key], value, rtol=1e-9, atol=1e-9)
    loss.backward()
    torch.testing.assert_close(logits.grad, data["grad_stage_logits"], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(stages.grad, data["grad_stage_features"], rtol=1e-8, atol=1e-8)


# ------------------------------------------------------------------ ablations, sample by sample


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    shares = [math.exp(z - top) for z in row]
    return [share / sum(shares) for share in shares]


def cross_entropy(logits: Tensor, label: Tensor) -> float:
    return -sum(math.log(softmax(row)[y]) for row, y in zip(logits.tolist(), label.tolist(), strict=True)) / len(label)


def rectified(row: list[float], y: int, mode: str) -> list[float]:
    top = max(range(len(row)), key=lambda j: row[j])
    new = list(row)
    new[y] = row[top]
    if mode == "swap":
        new[top] = row[y]
        new[y] = row[top]
    return new


def logit_step(student: Tensor, teacher: Tensor, label: Tensor, temperature: float, mode: str) -> float:
    total = 0.0
    for s, t, y in zip(student.tolist(), teacher.tolist(), label.tolist(), strict=True):
        p = softmax([z / temperature for z in rectified(t, y, mode)])
        q = softmax([z / temperature for z in s])
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(label)


def feature_step(student: Tensor, teacher: Tensor) -> float:
    total = 0.0
    for s, t in zip(student.numpy(), teacher.numpy(), strict=True):
        maps = [(f**2).mean(axis=0).ravel() for f in (s, t)]
        a, b = (m / np.sqrt((m**2).sum()) for m in maps)
        total += float(((a - b) ** 2).sum())
    return total / len(student)


def gate(module: nn.Module, feature: Tensor) -> Tensor:
    """The gate's formula, from its weights: hsig(W₂ relu(W₁ GAP F)) ⊗ hsig(conv(mean_c F))."""

    def hsig(x: Tensor) -> Tensor:
        return ((x + 3) / 6).clamp(0, 1)

    w = dict(module.named_parameters())
    hidden = (feature.mean(dim=(2, 3)) @ w["reduce.weight"].T + w["reduce.bias"]).clamp_min(0)
    channel = hsig(hidden @ w["expand.weight"].T + w["expand.bias"])
    kernel, plane = w["spatial.weight"][0, 0], nn.functional.pad(feature.mean(dim=1), (1, 1, 1, 1))
    patches = plane.unfold(1, 3, 1).unfold(2, 3, 1)
    spatial = hsig((patches * kernel).sum(dim=(-1, -2)) + w["spatial.bias"])
    return channel[:, :, None, None] * spatial[:, None]


def simam(feature: Tensor) -> Tensor:
    mean = feature.mean(dim=(2, 3), keepdim=True)
    variance = ((feature - mean) ** 2).mean(dim=(2, 3), keepdim=True)
    energy = (feature - mean) ** 2 / (4 * (variance + SETTINGS["simam_lambda"])) + 0.5
    return 1 / (1 + (-energy).exp())


@torch.no_grad()
def by_hand(method: SWSKD, batch: Batch, settings: dict[str, Any]) -> dict[str, float]:
    """Every term of the step, in plain loops, from the method's own stages and logits."""
    found = method.network.features(batch.image[:, 0])
    outputs = [head(stage) for head, stage in zip(method.heads, found.stages, strict=False)]
    aligned = [feature for feature, _ in outputs] + [found.stages[-1]]
    logits = [z for _, z in outputs] + [found.logits]
    terms: dict[str, float] = {"ce": sum(cross_entropy(z, batch.label) for z in logits)}
    pairs = [(0, 1), (1, 2)] if settings["target_stage"] == "next" else [(0, 2), (1, 2)]
    terms["lrb"] = sum(
        logit_step(logits[k], logits[t], batch.label, settings["temperature"], settings["rectify_mode"])
        for k, t in pairs
    )
    if method.uses("frb"):
        attend = simam if settings["attention"] == "simam" else lambda feature: gate(method.attention, feature)
        last = attend(aligned[-1])
        corrected = [
            feature * (last if settings["attention_scope"] == "last" else attend(feature)) for feature in aligned
        ]
        terms["frb"] = sum(feature_step(aligned[k], corrected[t]) for k, t in pairs)
        if method.uses("gate_ce"):
            weight, bias = method.gate_classifier.weight, method.gate_classifier.bias
            terms["gate_ce"] = cross_entropy(corrected[-1].mean(dim=(2, 3)) @ weight.T + bias, batch.label)
    return {name: value for name, value in terms.items() if method.uses(name)}


ABLATIONS: dict[str, tuple[dict[str, float], dict[str, Any]]] = {
    "default": ({}, {}),
    "no frb": ({"frb": 0.0}, {}),
    "no lrb": ({"lrb": 0.0}, {}),
    "neither": ({"lrb": 0.0, "frb": 0.0}, {}),
    "no gate_ce": ({"gate_ce": 0.0}, {}),
    "no ce": ({"ce": 0.0}, {}),
    "simam": ({}, {"attention": "simam"}),
    "per_stage": ({}, {"attention_scope": "per_stage"}),
    "simam per_stage": ({}, {"attention": "simam", "attention_scope": "per_stage"}),
    "last": ({}, {"target_stage": "last"}),
    "raise": ({}, {"rectify_mode": "raise"}),
    "last raise per_stage T=1": (
        {},
        {"target_stage": "last", "rectify_mode": "raise", "attention_scope": "per_stage", "temperature": 1.0},
    ),
}


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_each_ablation_equals_plain_loops(ablation: str, size: int) -> None:
    weights, changes = ABLATIONS[ablation]
    method, batch = make(weights, **changes), batch_of(size, seed=size)
    if size == 1:
        method.eval()  # BatchNorm has no variance of one 1×1 map
    expected = by_hand(copy.deepcopy(method), batch, SETTINGS | changes)
    logged = attach(method)
    loss = method.training_step(batch, 0)
    assert set(logged) == {f"train/{name}" for name in expected} | {"train/loss"}
    for name, value in expected.items():
        assert logged[f"train/{name}"].item() == pytest.approx(value, rel=1e-9, abs=1e-12), name
    # the terms are logged as they are and weighed in the loss
    total = sum((WEIGHTS | weights)[name] * value for name, value in expected.items())
    assert loss.item() == pytest.approx(total, rel=1e-9)


def test_the_ablations_differ() -> None:
    """Or the test above could compare two equal mistakes."""
    batch, seen = batch_of(7), {}
    for ablation, (weights, changes) in ABLATIONS.items():
        method = make(weights, **changes)
        logged = attach(method)
        method.training_step(batch, 0)
        seen[ablation] = round(logged["train/loss"].item(), 9)
    assert len(set(seen.values())) == len(seen), seen
    assert all(value > 0 for value in seen.values())


# ------------------------------------------------------------------ who learns from what


def gradients(method: SWSKD, batch: Batch) -> dict[str, Tensor | None]:
    attach(method)
    method.training_step(batch, 0).backward()
    return {name: parameter.grad for name, parameter in method.named_parameters()}


@pytest.mark.parametrize("scope", ["last", "per_stage"])
def test_the_gate_learns_from_its_own_classifier_alone(scope: str) -> None:
    batch = batch_of(6)
    whole = gradients(make(attention_scope=scope), batch)
    without_frb_pull = gradients(make({"frb": 1e-12}, attention_scope=scope), batch)
    for name, gradient in whole.items():
        if name.startswith(("attention.", "gate_classifier.")):
            assert gradient is not None and gradient.abs().sum() > 0, name
            torch.testing.assert_close(gradient, without_frb_pull[name], rtol=0, atol=0)
    # the rest of the training does not see the gate's cross-entropy
    alone = gradients(make({"gate_ce": 0.0}, attention_scope=scope), batch)
    for name, gradient in alone.items():
        if name.startswith("attention."):
            assert gradient is None, name
        else:
            torch.testing.assert_close(gradient, whole[name], rtol=0, atol=0)


def test_targets_pull_no_gradient_through_the_stage_behind() -> None:
    """Without cross-entropy on it, the last stage's classifier has a gradient from no step."""
    method, batch = make({"ce": 1e-12, "gate_ce": 0.0}), batch_of(6)
    found = gradients(method, batch)
    assert found["network.classifier.weight"].abs().max() < 1e-10  # type: ignore[union-attr]
    assert found["heads.1.classifier.weight"].abs().max() > 1e-6  # type: ignore[union-attr]


def test_switched_off_blocks_build_no_modules() -> None:
    names = {name.split(".")[0] for name, _ in make({"frb": 0.0}).named_parameters()}
    assert names == {"network", "heads"}
    names = {name.split(".")[0] for name, _ in make(attention="simam").named_parameters()}
    assert names == {"network", "heads"}
    assert {name.split(".")[0] for name, _ in make().named_parameters()} == {
        "network",
        "heads",
        "attention",
        "gate_classifier",
    }


def test_scoring_uses_the_network_alone() -> None:
    method = make().eval()
    image = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(method(image), method.network(image), rtol=0, atol=0)
    assert method(image).shape == (3, CLASSES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rectify_mode": "swop"}, "method.rectify_mode=swop .*'swap'"),
        ({"target_stage": "nxt"}, "method.target_stage=nxt .*'next'"),
        ({"attention": "gates"}, "method.attention=gates .*'gate'"),
        ({"attention_scope": "each"}, "method.attention_scope=each .*per_stage"),
        ({"temperature": 0.0}, "method.temperature=0.0"),
        ({"gate_kernel": 4}, "kernel_size=4"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make(**changes)


def test_frb_on_a_last_stage_of_one_cell_is_refused_and_lrb_alone_is_not() -> None:
    network = Staged()
    network.name, network.stage_shapes = "tiny", ((3, 4, 4), (4, 2, 2), (6, 1, 1))  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"tiny is a single cell.*data\.image_size"):
        SWSKD(network, **SETTINGS, **protocol(WEIGHTS))  # type: ignore[arg-type]
    SWSKD(network, **SETTINGS, **protocol(WEIGHTS | {"frb": 0.0}))  # type: ignore[arg-type]


# ------------------------------------------------------------------ derived weights


@pytest.mark.parametrize(
    ("weights", "changes", "gate"),
    [({}, {}, 0.7), ({"frb": 0.0}, {}, 0.0), ({}, {"attention": "simam"}, 0.0), ({"ce": 0.0, "lrb": 0.0}, {}, 0.7)],
)
def test_the_gate_is_trained_where_there_is_one(
    weights: dict[str, float], changes: dict[str, Any], gate: float
) -> None:
    assert make(weights, **changes).loss_weights == WEIGHTS | weights | {"gate_ce": gate}


@pytest.mark.parametrize("attention", ["gate", "simam"])
def test_the_weight_of_the_gate_alone_is_refused(attention: str) -> None:
    with pytest.raises(
        UserError, match=r"^method\.loss_weights: ce=0, lrb=0 and frb=0 leave nothing to learn, .*; set one"
    ):
        make({"ce": 0.0, "lrb": 0.0, "frb": 0.0}, attention=attention)


def test_the_stored_configuration_says_what_ran_and_the_run_keeps_its_folder(
    trained: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["method=swskd", "method.loss_weights.frb=0", "trainer.max_epochs=1"]
    folder = trained(*command)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["method"]["loss_weights"] == {"ce": 1.0, "lrb": 0.5, "frb": 0, "gate_ce": 0.0}
    assert config["given"] == {"method.loss_weights.gate_ce": 1.0}
    assert identity(config) == folder.name.rsplit("-", 1)[1]
    # the command, and the stored configuration, find the run again
    for again in (command, [f"config={folder / 'config.yaml'}"]):
        capsys.readouterr()
        assert trained(*again) == folder
        assert "this run has finished already" in capsys.readouterr().out
    # a run whose configuration was stored as given, before it was derived, is the same run
    stored = config | {"method": config["method"] | {"loss_weights": {"ce": 1.0, "lrb": 0.5, "frb": 0, "gate_ce": 1.0}}}
    del stored["given"]
    assert identity(stored) == identity(config)
