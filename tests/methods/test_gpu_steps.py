"""Every method's training step on a GPU: the numbers of the CPU, close in reduced precision, and no wait for the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from test_contract import METHODS
from torch import Tensor
from torch.utils.data import DataLoader
from world import KeepGradients, make_batch, make_method

from skinkd.batch import Batch
from skinkd.build.objects import fused_on_cuda
from skinkd.methods.base import Method
from skinkd.methods.contrast_memory import ContrastMemory
from skinkd.training.callbacks import History

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::UserWarning")]
every_method = pytest.mark.parametrize("name", METHODS)

STEPS = 2
BATCH = 8


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions and products in float32 throughout, where CUDA would round their inputs to TF32."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def steps(
    method: Method,
    accelerator: str,
    *,
    precision: Any = "32-true",
    callbacks: list[Callback] | None = None,
    count: int = STEPS,
    size: int = BATCH,
) -> tuple[dict[str, float], Tensor]:
    """Steps of Lightning's loop on one batch: the mean of each loss term, and all gradients of the last step in a row."""
    batch = make_batch(method, size=size)
    pin = accelerator == "gpu"
    batches = [Batch(*(part.pin_memory() if pin else part for part in batch))] * count
    keep = KeepGradients()
    trainer = L.Trainer(
        max_epochs=1,
        accelerator=accelerator,
        devices=1,
        precision=precision,
        callbacks=[*(callbacks or []), keep],
        logger=False,
        log_every_n_steps=1000,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    torch.manual_seed(0)  # dropout
    method.train()
    trainer.fit(method, DataLoader(batches, batch_size=None))
    gradients = [gradient.flatten().double().cpu() for gradient in keep.gradients.values() if gradient is not None]
    return method.terms.means(), torch.cat(gradients)


def without_draws(method: Method) -> Method:
    """The method without what a GPU draws otherwise than a CPU: dropout, and the negatives of CRD."""
    for module in method.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, ContrastMemory):
            module.draw = partial(next_images, module)  # type: ignore[method-assign]
    return method


def next_images(memory: ContrastMemory, index: Tensor, step: int) -> Tensor:
    """As many images as are drawn otherwise, (B, M): those that follow each of the batch."""
    places = torch.arange(1, memory.negatives + 1, device=index.device)
    return (index[:, None] + places) % len(memory.label)


@every_method
def test_float32_is_that_of_the_cpu(name: str, accelerator: str) -> None:
    """Terms of the first step within 0.1 %, the gradient within 1 % of its length: rounding, which BatchNorm enlarges."""
    made = [without_draws(make_method(name, "method.warmup_epochs=0")) for _ in range(2)]
    expected, expected_gradient = steps(made[0], "cpu", count=1)
    with full_float32():
        terms, gradient = steps(made[1], accelerator, count=1)
    assert terms == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert (gradient - expected_gradient).norm() <= 1e-2 * expected_gradient.norm()


@every_method
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_reduced_precision_is_close_to_float32(name: str, precision: str, accelerator: str) -> None:
    """The first step's loss within 10 %, each term within 15 %: passes are rounded, losses are not."""
    if precision == "16-mixed" and accelerator == "cpu":
        pytest.skip("fp16 needs a CUDA device")
    given = ["method.warmup_epochs=0", f"trainer.precision={precision}"]
    exact, _ = steps(make_method(name, given[0]), accelerator, count=1)
    rounded, _ = steps(make_method(name, *given), accelerator, precision=precision, count=1)
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.1)
    assert rounded == pytest.approx(exact, rel=0.15, abs=0.02)
    assert rounded != exact


class NoWait(Callback):
    """Makes every wait for the device an error, from the third step to the end of the last one."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 2 and batch.label.is_cuda:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.is_last_batch and batch.label.is_cuda:
            torch.cuda.set_sync_debug_mode("default")

    def on_exception(self, *_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")


@every_method
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_the_host_never_waits_in_a_step(name: str, precision: str, accelerator: str, tmp_path: Any) -> None:
    """Copies of the batch, forward pass, losses, backward pass, optimizer, schedule and what is logged."""
    if precision == "16-mixed" and accelerator == "cpu":
        pytest.skip("fp16 needs a CUDA device")
    method = make_method(name, "method.warmup_epochs=1", f"trainer.precision={precision}")
    steps(method, accelerator, precision=precision, callbacks=[NoWait(), Log()], count=5)
    assert method.terms.means()["loss"] > 0


class Log(History):
    """What a run logs at each step; writes no file."""

    def __init__(self) -> None:
        super().__init__(folder=None)  # type: ignore[arg-type]

    def on_train_epoch_end(self, *_: Any) -> None:
        pass


def test_a_wait_is_noticed(accelerator: str) -> None:
    if accelerator == "cpu":
        pytest.skip("a CPU has nothing to wait for")

    class Wait(Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
            batch.label.sum().item()

    with pytest.raises(RuntimeError, match="synchroniz"):
        steps(make_method("supervised"), accelerator, callbacks=[NoWait(), Wait()], count=5)


@pytest.mark.parametrize("optim", ["sgd_onecycle", "adam_multistep", "adamw_cosine"])
def test_the_optimizer_is_fused(optim: str, accelerator: str) -> None:
    """One kernel on a GPU, with the steps of the CPU's; nothing else on the CPU; off where it is asked for."""
    plain = make_method("supervised", f"optim={optim}", "+optim.optimizer.fused=false")
    fused = make_method("supervised", f"optim={optim}")
    with full_float32():
        expected, expected_gradient = steps(plain, accelerator)
        terms, gradient = steps(fused, accelerator)
    groups = [method.trainer.optimizers[0].param_groups[0]["fused"] for method in (plain, fused)]
    assert groups == [False, True if accelerator == "gpu" else None]
    assert terms == pytest.approx(expected, rel=1e-4)
    assert (gradient - expected_gradient).norm() <= 1e-3 * expected_gradient.norm()


def test_an_overflow_in_the_first_step_of_fp16_leaves_no_trace(accelerator: str) -> None:
    """The step is left out, and the next ones are those of plain SGD from the start."""
    if accelerator == "cpu":
        pytest.skip("an optimizer is fused on a CUDA device only")
    start, gradient = torch.randn(1000), torch.randn(1000)
    plain, fused = (torch.nn.Parameter(start.clone().cuda()) for _ in range(2))
    make = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    expected = make([plain])
    optimizer = fused_on_cuda(make, {"precision": "16-mixed", "gradient_clip_val": None})([fused])
    scaler = torch.amp.GradScaler("cuda")
    for scale in (torch.inf, 1, 1):
        fused.grad = scaler.scale(gradient.cuda() * scale)
        scaler.step(optimizer)
        scaler.update()
        if scale == 1:
            plain.grad = gradient.cuda()
            expected.step()
    assert optimizer.param_groups[0]["fused"]
    torch.testing.assert_close(fused, plain, rtol=1e-6, atol=1e-6)
