"""MSKD's hybrids: the contract of a backbone, and exits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn

from skinkd.errors import UserError
from skinkd.models.hybrid import HybridStudent, HybridTeacher

CONF = Path(__file__).parents[2] / "conf"
SMALL = {"conv_branch": "test_efficientnet"}
KINDS = {
    "teacher": ("mskd_teacher", {}),
    "teacher of timm's": (
        "mskd_teacher", {"attention_branch": "vit_tiny_patch16_224", "conv_branch": "convnext_atto"}
    ),
    "student, logits": ("mskd_student", SMALL),
    "student, features": ("mskd_student", {"fusion": "features"} | SMALL),
}  # fmt: skip


def build(kind: str, **changes: Any) -> HybridTeacher | HybridStudent:
    file, options = KINDS[kind]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose(f"backbone/{file}", overrides=["backbone.image_size=64"]))
    settings = config["backbone"] | {"num_classes": 7, "pretrained": False} | options | changes
    classes = {cls.__name__: cls for cls in (HybridTeacher, HybridStudent)}
    torch.manual_seed(0)
    return classes[settings.pop("_target_").rpartition(".")[2]](**settings)


def images(batch: int = 2, size: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module", params=list(KINDS))
def network(request: pytest.FixtureRequest) -> HybridTeacher | HybridStudent:
    hybrid = build(request.param)
    hybrid.kind = request.param
    return hybrid


@pytest.fixture(autouse=True)
def _eval_mode(request: pytest.FixtureRequest) -> None:
    if "network" in request.fixturenames:
        request.getfixturevalue("network").eval().zero_grad(set_to_none=True)


@pytest.mark.parametrize("batch", [1, 3])
def test_shapes_are_the_announced_ones(network: HybridTeacher | HybridStudent, batch: int) -> None:
    with torch.no_grad():
        found = network.features(images(batch))
    assert tuple(tuple(stage.shape[1:]) for stage in found.stages) == network.stage_shapes
    assert found.pooled.shape == (batch, network.feature_dim)
    assert found.logits.shape == (batch, network.num_classes)
    assert tuple(found.exits) == network.exit_names
    assert all(logits.shape == (batch, 7) and torch.isfinite(logits).all() for logits in found.exits.values())


def test_forward_gives_the_logits_of_the_one_pass(network: HybridTeacher | HybridStudent) -> None:
    with torch.no_grad():
        found = network.features(images())
        torch.testing.assert_close(network(images()), found.logits)
        torch.testing.assert_close(network.classifier(found.pooled), found.logits)
        torch.testing.assert_close(network(images().float() / 255), found.logits)


def test_every_parameter_gets_a_gradient(network: HybridTeacher | HybridStudent) -> None:
    network.train()
    found = network.features(images(4))
    label = torch.tensor([0, 1, 2, 3])
    loss = sum(nn.functional.cross_entropy(logits, label) for logits in (found.logits, *found.exits.values()))
    loss.backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None]
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_the_final_loss_alone_trains_both_branches(network: HybridTeacher | HybridStudent) -> None:
    network.train()
    network(images(4)).square().sum().backward()
    unused = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is None}
    exits = {
        "teacher": {"attention", "attention_exits", "conv", "conv_exits"},
        "student, logits": set(),
        "student, features": {"exit_1", "conv"},
    }[network.kind.removesuffix(" of timm's")]
    assert unused == exits  # classifiers of exits only:
    branch_classifiers = ("attention.model.head", "conv.model.head", "conv.model.classifier")
    for name, parameter in network.named_parameters():
        if parameter.grad is None:
            assert "exit" in name or name.startswith(branch_classifiers)


def test_state_dict_round_trip(network: HybridTeacher | HybridStudent, tmp_path: Path) -> None:
    state = {key: value + 1 for key, value in network.state_dict().items()}
    torch.save({"state_dict": {f"network.{key}": value for key, value in state.items()}}, tmp_path / "a.ckpt")
    loaded = build(network.kind, pretrained=True, weights=str(tmp_path / "a.ckpt")).state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)
    with pytest.raises(UserError, match=r"does not fit mskd_.*instead of \(3,"):
        build(network.kind, num_classes=3, weights=str(tmp_path / "a.ckpt"))


@pytest.mark.parametrize("kind", ["teacher", "student, logits"])
def test_the_convolutional_branch_starts_from_a_file(kind: str, tmp_path: Path) -> None:
    donor = build("student, logits", conv_branch="test_resnet").conv.model
    nn.init.constant_(donor.bn1.bias, 0.25)
    torch.save(donor.state_dict(), tmp_path / "branch.pth")
    plain = build(kind, conv_branch="test_resnet")
    started = build(kind, conv_branch="test_resnet", conv_weights=str(tmp_path / "branch.pth"))
    for name, value in started.state_dict().items():
        source = donor.state_dict()[name.removeprefix("conv.model.")] if name.startswith("conv.model.") else None
        assert value.equal(plain.state_dict()[name] if source is None else source)
    with pytest.raises(UserError, match=r"nowhere\.pth does not exist"):
        build(kind, conv_weights="nowhere.pth")
    torch.save({"state_dict": started.state_dict()}, tmp_path / "whole.pth")
    whole = build(kind, conv_branch="test_resnet", weights=str(tmp_path / "whole.pth"), conv_weights="nowhere.pth")
    assert whole.conv.model.bn1.bias.equal(donor.bn1.bias)  # a whole network's file needs no other


def test_same_seed_same_weights(network: HybridTeacher | HybridStudent) -> None:
    parameters = dict(network.named_parameters())
    for name, parameter in build(network.kind).named_parameters():
        assert torch.equal(parameter, parameters[name])


def test_bf16_autocast(network: HybridTeacher | HybridStudent) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = network.features(images())
    assert all(torch.isfinite(logits).all() for logits in (found.logits, *found.exits.values()))


# --- the teacher ----------------------------------------


def test_published_teacher() -> None:
    teacher = build("teacher")
    vit, mixer = teacher.attention.model, teacher.conv.model
    assert vit.patch_embed.patch_size == (4, 4) and len(vit.blocks) == 2 and vit.embed_dim == 256
    block = vit.blocks[0]
    assert block.attn.num_heads == 8
    assert (block.mlp.fc1.out_features, block.mlp.fc2.out_features) == (512, 256)
    depthwise = [m for m in mixer.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert [(m.kernel_size, m.out_channels) for m in depthwise] == [((5, 5), 256)] * 2
    assert teacher.exit_names == (
        "attention_exit_1", "attention_exit_2", "attention_branch", "conv_exit_1", "conv_exit_2", "conv_branch",
    )  # fmt: skip
    kinds = [type(layer).__name__ for layer in teacher.classifier]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear"]
    assert (teacher.classifier[0].in_features, teacher.classifier[0].out_features) == (512, 512)
    assert teacher.classifier[2].p == 0.5


def test_teachers_exits_read_the_blocks() -> None:
    teacher = build("teacher").eval()
    blocks: list[Tensor] = []
    for block in teacher.attention.model.blocks:
        block.register_forward_hook(lambda module, inputs, output: blocks.append(output))
    with torch.no_grad():
        exits = teacher.features(images()).exits
        for k, tokens in enumerate(blocks):
            linear = teacher.attention_exits[k][2]
            torch.testing.assert_close(exits[f"attention_exit_{k + 1}"], linear(tokens.mean(dim=1)))
        torch.testing.assert_close(exits["attention_branch"], teacher.attention(images()))
        torch.testing.assert_close(exits["conv_branch"], teacher.conv(images()))


def test_teachers_branches_normalise_for_themselves() -> None:
    teacher = build("teacher of timm's")
    assert teacher.attention.normalise.mean.flatten().tolist() == pytest.approx([0.5] * 3)
    assert teacher.conv.normalise.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert len(teacher.exit_names) == 10


def test_teacher_forward_skips_the_exits() -> None:
    teacher = build("teacher").eval()
    called: list[str] = []
    for name, module in teacher.named_modules():
        if "exits" in name:
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    with torch.no_grad():
        teacher(images())
    assert not called


# --- the student ----------------------------------------


def test_fused_probabilities() -> None:
    student = build("student, logits").eval()
    with torch.no_grad():
        found = student.features(images())
    expected = torch.cat([found.exits["exit_1"].softmax(1), found.exits["exit_2"].softmax(1)], dim=1)
    torch.testing.assert_close(found.pooled, expected)
    assert student.feature_dim == 14
    assert (student.classifier[0].in_features, student.classifier[0].out_features) == (14, 256)


def test_fused_features() -> None:
    student = build("student, features", conv_branch="efficientnet_b0").eval()  # the published one
    assert student.feature_dim == 32 + 64 + 24 + 40 + 112 + 1280
    with torch.no_grad():
        found = student.features(images())
        first = student.cnn[0](student.normalise(images()))
        parts = [first.mean((2, 3)), student.cnn[1](first).mean((2, 3))]
        parts += [stage.mean((2, 3)) for stage in found.stages[:-1]]
        parts.append(student.conv_norm(student.conv.pool(images())))
    torch.testing.assert_close(found.pooled, torch.cat(parts, dim=1))


def test_the_same_student_but_for_the_fusion() -> None:
    logits, features = build("student, logits").eval(), build("student, features").eval()
    with torch.no_grad():
        for name, exit_logits in logits.features(images()).exits.items():
            torch.testing.assert_close(exit_logits, features.features(images()).exits[name])


def test_students_layers() -> None:
    student = build("student, logits")
    kinds = [[type(layer).__name__ for layer in block] for block in student.cnn]
    assert kinds == [["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]] * 2
    assert [block[0].out_channels for block in student.cnn] == [32, 64]


# --- mistakes ----------------------------------------


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("student, logits", {"fusion": "sum"}, "backbone.fusion=sum is not a valid value"),
        ("student, logits", {"cnn_widths": []}, "cnn_widths"),
        ("student, logits", {"cnn_widths": [8] * 7}, r"cnn_widths=.* does not suit image_size=64"),
        ("student, logits", {"conv_branch": "efficientnet_b00"}, "did you mean .*efficientnet_b0"),
        ("student, logits", {"image_size": 16}, "image_size=16 does not suit"),
        ("teacher", {"attention_branch": "small_vitt"}, "small_vitt is no network of timm"),
        ("teacher", {"small_vit": {"widths": 3}}, r"backbone.options=.*does not suit"),
        ("teacher", {"convmixer": {"dim": 8, "deep": 3}}, r"backbone.options=.*does not suit .*convmixer"),
        ("teacher", {"weights": "nowhere.ckpt"}, "nowhere.ckpt does not exist"),
    ],
)
def test_mistakes_get_one_sentence(kind: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build(kind, **changes)
