"""The rows with a second image or a memory, against loops written from their papers."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from world import CLASSES, make_batch, make_method, one_step

from skinkd.batch import Batch
from skinkd.methods.base import Method
from skinkd.methods.contrast_memory import ContrastMemory
from skinkd.methods.memory import of_all_processes

EPOCHS, LR = 2, 0.05
COUNTS = (5, 4, 3, 2, 1)
LABELS = torch.tensor([label for label, count in enumerate(COUNTS) for _ in range(count)])


def batches_of(method: Method) -> list[Batch]:
    """Two batches of four images of 32 pixels, with the labels that the training images of these numbers have."""
    found = []
    for number, index in enumerate(torch.arange(8).split(4)):
        batch = make_batch(method, seed=number)
        found.append(batch._replace(image=batch.image[..., :32, :32], index=index, label=LABELS[index]))
    return found


def trained(method: Method, batches: list[Batch]) -> Method:
    """The method after EPOCHS epochs of Lightning's loop, with plain SGD."""
    method.configure_optimizers = lambda: torch.optim.SGD(method.parameters(), lr=LR)  # type: ignore[method-assign]
    trainer = L.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        precision="64-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(method.train(), DataLoader(batches, batch_size=None))
    return method


def looped(network: nn.Module, batches: list[Batch], loss_of: Callable[[int, Batch], Tensor]) -> nn.Module:
    """The network after the same steps, with the loss of the paper."""
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    for epoch in range(EPOCHS):
        for batch in batches:
            loss = loss_of(epoch, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


def check_same(ours: nn.Module, theirs: nn.Module) -> None:
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-9)


def test_ps_kd_learns_from_the_predictions_of_the_epoch_before() -> None:
    method = make_method("ps_kd", counts=COUNTS).double()
    network, batches = copy.deepcopy(method.network).train(), batches_of(method)
    past = torch.zeros(len(LABELS), CLASSES, dtype=torch.float64)
    past[torch.arange(len(LABELS)), LABELS] = 1

    def loss_of(epoch: int, batch: Batch) -> Tensor:
        alpha = 0.8 * (epoch + 1) / EPOCHS
        hard = torch.eye(CLASSES, dtype=torch.float64)[batch.label]
        logits = network(batch.image[:, 0])
        soft = (1 - alpha) * hard + alpha * past[batch.index]
        past[batch.index] = logits.detach().softmax(dim=1)
        return -(soft * logits.log_softmax(dim=1)).sum(dim=1).mean()

    looped(network, batches, loss_of)
    assert isinstance(trained(method, batches).past, Tensor)
    check_same(method.network, network)
    torch.testing.assert_close(method.past, past, rtol=1e-9, atol=1e-9)
    assert torch.equal(method.past[8:], F.one_hot(LABELS[8:], CLASSES).double())  # of images that did not come
    assert "past" in method.state_dict()


def test_dlb_sees_the_last_batch_again() -> None:
    method = make_method("dlb", counts=COUNTS).double()
    network, batches = copy.deepcopy(method.network).train(), batches_of(method)
    last: list[tuple[Tensor, Tensor]] = []

    def loss_of(epoch: int, batch: Batch) -> Tensor:
        logits = network(batch.image[:, 0])
        if not last:
            loss = F.cross_entropy(logits, batch.label)
        else:
            before, label = last.pop()
            again = network(batch.image[:, 1])
            p = (before / 3).softmax(dim=1)
            divergence = (p * (p.log() - (again / 3).log_softmax(dim=1))).sum(dim=1).mean() * 9
            loss = F.cross_entropy(torch.cat([again, logits]), torch.cat([label, batch.label])) + divergence
        last.append((logits.detach(), batch.label))
        return loss

    looped(network, batches, loss_of)
    check_same(trained(method, batches).network, network)


def test_cs_kd_follows_another_image_of_the_class() -> None:
    method = make_method("cs_kd", counts=COUNTS).double()
    network, batches = copy.deepcopy(method.network).train(), batches_of(method)

    def loss_of(epoch: int, batch: Batch) -> Tensor:
        logits = network(batch.image[:, 0])
        with torch.no_grad():
            p = (network(batch.image[:, 1]) / 4).softmax(dim=1)
        divergence = (p * (p.log() - (logits / 4).log_softmax(dim=1))).sum(dim=1).mean() * 16
        return F.cross_entropy(logits, batch.label) + divergence

    looped(network, batches, loss_of)
    check_same(trained(method, batches).network, network)


def test_the_last_batch_of_dlb_is_in_its_checkpoint_without_images() -> None:
    method = trained(make_method("dlb", counts=COUNTS), batches_of(make_method("dlb")))
    stored: dict[str, Any] = {}
    method.on_save_checkpoint(stored)
    assert [tuple(rows.shape) for rows in stored["last_batch"]] == [(4, CLASSES), (4,)]
    other = make_method("dlb", counts=COUNTS)
    other._trainer = SimpleNamespace(world_size=1, global_rank=0)  # type: ignore[assignment]
    other.on_load_checkpoint(stored)
    assert other.last is not None and method.last is not None
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(other.last, method.last, strict=True))


@pytest.fixture
def memory() -> ContrastMemory:
    torch.manual_seed(0)
    return ContrastMemory(LABELS, width=6, negatives=40, momentum=0.5)


def test_negatives_are_of_other_classes_uniform_and_follow_from_the_step(memory: ContrastMemory) -> None:
    index = torch.arange(len(LABELS))
    drawn = torch.cat([memory.draw(index, step) for step in range(100)], dim=1)
    assert (LABELS[drawn] != LABELS[index][:, None]).all()
    for image in (0, 7, 14):  # of the first, a middle and the last class
        others = LABELS[image] != LABELS
        counts = torch.bincount(drawn[image], minlength=len(LABELS)).double()
        expected = drawn.shape[1] / others.sum()
        # 4000 draws: a count is within six standard deviations of its mean
        assert ((counts[others] - expected).abs() < 6 * expected.sqrt()).all()
        assert counts[~others].sum() == 0
    assert torch.equal(memory.draw(index, 5), memory.draw(index, 5))
    assert not torch.equal(memory.draw(index, 5), memory.draw(index, 6))


def test_crd_s_memory_is_that_of_the_published_code() -> None:
    """Scores are divided by constants of the first batch; embeddings enter as running means of unit length."""
    with np.load(Path(__file__).parents[1] / "reference" / "crd_seed0.npz") as file:
        data = {key: torch.as_tensor(file[key]) for key in file.files}
    images = int(data["images"])
    memory = ContrastMemory(torch.arange(images), width=6, negatives=7, momentum=0.5).double()
    memory.student.copy_(data["contrast_memory_v1"])
    memory.teacher.copy_(data["contrast_memory_v2"])
    for step in (0, 1):
        columns = data[f"columns_{step}"]
        memory.draw = lambda index, step, columns=columns: columns[:, 1:]  # type: ignore[method-assign]
        v, v_t = (
            F.normalize(F.linear(data[f"{side}_{step}"], data[f"{name}_weight"], data[f"{name}_bias"]))
            for side, name in (("student", "embed_s_linear"), ("teacher", "embed_t_linear"))
        )
        memory(v, v_t, data[f"index_{step}"], step=step, temperature=data["temperature"].item())
        for ours, theirs in (
            (memory.student, data[f"memory_student_{step}"]),
            (memory.teacher, data[f"memory_teacher_{step}"]),
            (memory.constants, data[f"constants_{step}"]),
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_crd_needs_two_classes() -> None:
    with pytest.raises(Exception, match="two classes"):
        ContrastMemory(torch.zeros(4, dtype=torch.long), width=2, negatives=2, momentum=0.5)


@pytest.mark.parametrize("name", ["kd", "dkd", "d_kd", "ssdkd", "mskd"])
def test_standardised_logits_do_not_depend_on_the_size_of_the_teacher_s(name: str) -> None:
    """A teacher with other logits of the same shape teaches the same, and only then."""

    def steps(*settings: str) -> list[dict[str, float]]:
        found = []
        for scale in (1.0, 3.0):
            method = make_method(name, "method.warmup_epochs=0", *settings)
            forward = method.teacher.forward

            def scaled(image: Tensor, forward: Any = forward, scale: float = scale) -> Any:
                out = forward(image)
                changed = {"logits": scale * out.logits + 2}
                if hasattr(out, "exits"):
                    changed["exits"] = {key: scale * value + 2 for key, value in out.exits.items()}
                return out._replace(**changed)

            method.teacher.forward = scaled
            torch.manual_seed(0)
            found.append(one_step(method, make_batch(method, size=2))[0])
        return found

    first, second = steps("method.logit_standardization=true")
    assert second == pytest.approx(first, rel=1e-4, abs=1e-6)
    first, second = steps()
    assert second["loss"] != pytest.approx(first["loss"], rel=1e-3)


def two_ranks(work: Callable[[int, Any], None]) -> list[Any]:
    """What ``work(rank, results)`` puts into its place of ``results``, from two processes that are joined by gloo."""
    context = mp.get_context("fork")
    with context.Manager() as manager:
        results, place = manager.list([None, None]), f"file://{manager.address}-gloo"

        def run(rank: int) -> None:
            torch.set_num_threads(1)
            dist.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
            work(rank, results)
            dist.destroy_process_group()

        processes = [context.Process(target=run, args=(rank,)) for rank in (0, 1)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0, 0]
        return list(results)


def test_two_processes_remember_what_one_would() -> None:
    torch.manual_seed(1)
    index, logits = torch.tensor([3, 0, 9, 14]), torch.randn(4, CLASSES)
    v, v_t = F.normalize(torch.randn(4, 6)), F.normalize(torch.randn(4, 6))
    dlb, ps_kd = make_method("dlb", counts=COUNTS), make_method("ps_kd", counts=COUNTS)
    memory = ContrastMemory(LABELS, width=6, negatives=5, momentum=0.5)
    alone, alone_ps_kd = copy.deepcopy(memory), copy.deepcopy(ps_kd)
    alone(v, v_t, index, step=0, temperature=1.0)
    alone_ps_kd._remember(index, logits)

    def work(rank: int, results: Any) -> None:
        half = slice(2 * rank, 2 * rank + 2)
        assert torch.equal(of_all_processes(index[half]), index)
        ps_kd._remember(index[half], logits[half])
        memory(v[half], v_t[half], index[half], step=0, temperature=1.0)
        dlb._trainer = SimpleNamespace(world_size=2, global_rank=rank)  # type: ignore[assignment]
        dlb.last = logits[half], index[half]
        stored: dict[str, Any] = {}
        dlb.on_save_checkpoint(stored)
        dlb.last = None
        dlb.on_load_checkpoint(stored)
        assert dlb.last is not None
        results[rank] = [
            tensor.tolist() for tensor in (ps_kd.past, memory.student, memory.teacher, memory.constants, *dlb.last)
        ]

    first, second = two_ranks(work)
    assert first[:4] == second[:4]
    for ours, theirs in zip(first, (alone_ps_kd.past, alone.student, alone.teacher), strict=False):
        torch.testing.assert_close(torch.tensor(ours), theirs)
    assert (first[3][0] > 0) and (first[3][1] > 0)
    assert [first[4], second[4]] == [logits[:2].tolist(), logits[2:].tolist()]
    assert [first[5], second[5]] == [index[:2].tolist(), index[2:].tolist()]
