"""The passes of a method's step that no implementation can leave out.

They are the forward pass of a frozen teacher, and the forward and backward passes of the student and of the heads that the
method trains: with the method's own modules, on the same batch, in the same formats as the step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from skinkd.batch import Batch
from skinkd.methods.byot import BYOT
from skinkd.methods.crd import CRD
from skinkd.methods.dlb import DLB
from skinkd.methods.mskd import MSKD
from skinkd.methods.mskd_teacher import MSKDTeacher
from skinkd.methods.reviewkd import ReviewKD
from skinkd.methods.ssdkd import SSDKD
from skinkd.methods.ssdkd_projection import SSDKDProjection
from skinkd.methods.swskd import SWSKD
from skinkd.models.backbone import Features


def whole_step(method: Any, batch: Batch, precision: Any) -> None:
    """The step: all loss terms and their gradients. The optimizer's step and the loop are left out."""
    method.zero_grad()
    with precision:
        loss = method.training_step(batch, 0)
    loss.backward()


def passes_alone(method: Any, batch: Batch, precision: Any) -> None:
    """The passes of the step without its losses: the gradient of each output is 1."""
    method.zero_grad()
    with precision:
        outputs = trained_outputs(method, batch)
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])


@contextmanager
def networks_known(method: Any, batch: Batch) -> Iterator[None]:
    """Let student and teacher give outputs that are computed already, so that a step is its heads and losses alone."""
    image = images_of(method, batch)
    with torch.no_grad():
        found = {"network": method.network.features(image)}
        if hasattr(method, "teacher"):
            found["teacher"] = method.teacher(image)
    student = type(found["network"])(*(_leaves(value) for value in found["network"]))
    method.network.features = lambda _: student
    method.network.forward = lambda _: student.logits
    if "teacher" in found:
        method.teacher.forward = lambda _: found["teacher"]
    try:
        yield
    finally:
        del method.network.features, method.network.forward
        if "teacher" in found:
            del method.teacher.forward


def _leaves(value: Any) -> Any:
    """Outputs of a network as if they were parameters: their gradients are computed, and go no further."""
    if isinstance(value, dict):
        return {name: _leaves(one) for name, one in value.items()}
    if isinstance(value, tuple):
        return tuple(_leaves(one) for one in value)
    return value.detach().requires_grad_()


def images_of(method: Any, batch: Batch) -> Tensor:
    """The images (N, 3, H, W) that student and teacher see."""
    return batch.image.flatten(0, 1) if method.views == "four_rotations" else batch.image[:, 0]


def trained_outputs(method: Any, batch: Batch) -> list[Tensor]:
    """Run teacher, student and heads; return the outputs through which the losses reach the student and the heads."""
    image = images_of(method, batch)
    if isinstance(method, SSDKDProjection):  # its network is the teacher's, and is not trained
        return [method.projector(method.teacher(image).pooled)]
    taught = method.teacher(image) if hasattr(method, "teacher") else None
    student = method.network.features(image)
    outputs = [student.logits, *_heads(method, student, taught)]
    if isinstance(method, DLB):
        outputs.append(method.network(batch.image[:, 1]))
    elif batch.image.shape[1] == 2:  # the second image gives targets alone
        with torch.no_grad():
            method.network(batch.image[:, 1])
    return [output for output in outputs if output.requires_grad]


def _heads(method: Any, student: Any, taught: Features | None) -> list[Tensor]:
    if isinstance(method, (BYOT, SWSKD)):
        found = [part for head, stage in zip(method.heads, student.stages, strict=False) for part in head(stage)]
        return [*found, *(_gate(method, student.stages[-1]) if isinstance(method, SWSKD) else [])]
    if isinstance(method, (MSKD, MSKDTeacher)):
        return list(student.exits.values())
    if isinstance(method, ReviewKD):
        return method.review(method._maps(student))
    if isinstance(method, CRD) and taught is not None:
        return [method.embed(student.pooled), method.embed_teacher(taught.pooled)]
    if isinstance(method, SSDKD) and taught is not None:
        method.teacher.project(taught.pooled)
        return [method.projector(student.pooled), method.regressor(student.stages[-1])]
    if hasattr(method, "regressor"):
        return [method.regressor(student.stages[getattr(method, "stage", 0) - 1])]
    return []


def _gate(method: SWSKD, last: Tensor) -> list[Tensor]:
    """The classifier of SW-SKD's attention gate, which trains the gate alone."""
    if not method.uses("gate_ce"):
        return []
    last = last.detach()
    return [method.gate_classifier((last * method.attention(last)).mean(dim=(2, 3)))]
