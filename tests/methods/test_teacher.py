"""A frozen teacher is frozen, whatever is done to the method that holds it."""

import copy
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.utils.data import DataLoader
from world import CLASSES, SIZE, config_of, make_batch, make_method, make_teacher

from skinkd.models.backbone import Features
from skinkd.models.teacher import Teacher


@pytest.fixture
def teacher() -> Teacher:
    return make_teacher(config_of("kd"))[0]


def images(size: int = SIZE, count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_nothing_puts_it_into_training_mode(teacher: Teacher) -> None:
    teacher.train()
    teacher.train(True)
    holder = nn.Sequential(teacher)
    holder.train()
    assert not any(module.training for module in teacher.modules())


def test_its_pass_keeps_no_gradient_and_moves_no_statistics(teacher: Teacher) -> None:
    before = copy.deepcopy(teacher.network.state_dict())
    image = torch.rand(2, 3, SIZE, SIZE, requires_grad=True)
    features = teacher(image)
    assert isinstance(features, Features)
    assert not features.logits.requires_grad
    assert features.logits.grad_fn is None
    assert all(stage.grad_fn is None for stage in features.stages)
    after = teacher.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(not parameter.requires_grad for parameter in teacher.parameters())


def test_it_gives_what_its_network_gives(teacher: Teacher) -> None:
    plain = teacher.network.eval()(images())
    torch.testing.assert_close(teacher(images()).logits, plain)
    assert plain.shape == (2, CLASSES)


def test_images_of_another_size_are_resized_to_its_own(teacher: Teacher) -> None:
    larger = teacher(images(2 * SIZE))
    assert [stage.shape[1:] for stage in larger.stages] == [torch.Size(shape) for shape in teacher.stage_shapes]
    flat = torch.full((1, 3, 2 * SIZE, 2 * SIZE), 100, dtype=torch.uint8)
    same = torch.full((1, 3, SIZE, SIZE), 100, dtype=torch.uint8)
    torch.testing.assert_close(teacher(flat).logits, teacher(same).logits, rtol=1e-4, atol=1e-4)


def test_bf16_is_its_own_choice() -> None:
    exact, _ = make_teacher(config_of("kd"))
    rounded = Teacher(exact.network, image_size=SIZE, bf16=True)
    ours, theirs = rounded(images()).logits, exact(images()).logits
    assert not torch.equal(ours.float(), theirs)
    torch.testing.assert_close(ours.float(), theirs, rtol=0.1, atol=0.1)


def test_a_copy_of_the_method_shares_it() -> None:
    method = make_method("ssdkd")
    assert copy.deepcopy(method).teacher is method.teacher
    assert not any(name.startswith("teacher") for name in method.state_dict())


def test_it_survives_fit_with_averaged_weights(tmp_path: Path) -> None:
    """With EMA, which copies the method and swaps its weights, and over validation, which switches modes."""
    method = make_method("kd", "optim=adam_multistep")
    batch = make_batch(method)
    before = copy.deepcopy(method.teacher.network.state_dict())

    def trainer(epochs: int) -> L.Trainer:
        return L.Trainer(
            max_epochs=epochs,
            strategy=SingleDeviceStrategy("cpu"),
            callbacks=[EMAWeightAveraging(decay=0.9)],
            default_root_dir=tmp_path,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
        )

    first = trainer(2)
    first.fit(method, DataLoader([batch] * 2, batch_size=None))
    path = tmp_path / "ema.ckpt"
    first.save_checkpoint(path)
    stored = torch.load(path, weights_only=True)
    names = set(stored["state_dict"]) | set(stored.get("current_model_state", {}))
    assert names
    assert not any("teacher" in name for name in names)
    resumed = make_method("kd", "optim=adam_multistep")
    trainer(3).fit(resumed, DataLoader([batch] * 2, batch_size=None), ckpt_path=path)
    for holder in (method, resumed):
        after = holder.teacher.network.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert not any(module.training for module in holder.teacher.modules())
        assert all(parameter.grad is None for parameter in holder.teacher.parameters())


def test_without_a_projector_it_says_so(teacher: Teacher) -> None:
    with pytest.raises(ValueError, match="no projector"):
        teacher.project(torch.zeros(1, 3))


@pytest.mark.parametrize("name", ["kd", "ssdkd", "ssdkd_projection", "at", "crd", "reviewkd"])
def test_bf16_folds_the_teacher_and_nothing_else(name: str) -> None:
    """The method's networks, its checkpoint and what it reads of the teacher are those of a teacher in float32."""
    plain, folded = make_method(name), make_method(name, "method.teacher.bf16=true")
    norms = [sum(isinstance(module, nn.BatchNorm2d) for module in m.teacher.modules()) for m in (plain, folded)]
    assert norms[1] < norms[0]
    ours, theirs = folded.state_dict(), plain.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    image = make_batch(plain).image[:, 0]
    torch.testing.assert_close(folded.teacher(image).logits, plain.teacher(image).logits, rtol=0.1, atol=0.1)
