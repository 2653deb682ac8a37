"""The memory of CRD: an embedding of each training image by each network, from which negatives are drawn."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skinkd.errors import UserError
from skinkd.losses.contrastive import contrast_scores
from skinkd.methods.memory import of_all_processes

Scores = tuple[Tensor, Tensor]
"""Of the positives (B,), and of the negatives (B, M)."""


class ContrastMemory(nn.Module):
    """Remembered embeddings of N images by student and teacher, and scores of new ones against them (Tian et al., 2020).

    Args:
        label: of each image, int64 (N,).
        width: D of the embeddings.
        negatives: M, drawn with replacement for each image among the images of other classes. Their code draws without
            replacement where M images are left (ours: always with).
        momentum: share of the old embedding in the new one.

    Raises:
        UserError: all images are of one class.
    """

    label: Tensor
    order: Tensor
    count: Tensor
    student: Tensor
    teacher: Tensor
    constants: Tensor

    def __init__(self, label: Tensor, *, width: int, negatives: int, momentum: float) -> None:
        super().__init__()
        if len(label.unique()) < 2:
            raise UserError(
                "method=crd needs training images of two classes or more: its negatives are of other classes"
            )
        self.negatives, self.momentum = negatives, momentum
        self.seed = torch.initial_seed()  # of the run, set before the method is built
        bound = 1 / math.sqrt(width / 3)
        self.register_buffer("label", label, persistent=False)
        self.register_buffer("order", label.argsort(stable=True), persistent=False)  # class 0 first
        self.register_buffer("count", torch.bincount(label), persistent=False)
        self.register_buffer("student", torch.empty(len(label), width).uniform_(-bound, bound))
        self.register_buffer("teacher", torch.empty(len(label), width).uniform_(-bound, bound))
        self.register_buffer("constants", torch.zeros(2))  # 0: not set before the first step
        self.first = True  # step of this process

    def forward(self, v: Tensor, v_t: Tensor, index: Tensor, *, step: int, temperature: float) -> tuple[Scores, Scores]:
        """Scores of the student against the remembered teacher, and of the teacher against the student.

        Then the embeddings of the batch, of all processes, enter the memory.

        Args:
            v: the student's embeddings, of unit length, (B, D).
            v_t: the teacher's, (B, D).
            index: of the images, int64 (B,).
            step: the training step; the negatives follow from it, so that a resumed run draws the same.
            temperature: τ.
        """
        negatives = self.draw(index, step)
        # copies, since the memory changes before the gradient is computed
        pairs = ((v, self.teacher.clone()), (v_t, self.student.clone()))
        found = [contrast_scores(new, old, index, negatives, temperature=temperature) for new, old in pairs]
        if self.first:
            self._set_constants(found)
            self.first = False
        scores, scores_t = (
            (positive / constant, others / constant)
            for (positive, others), constant in zip(found, self.constants, strict=True)
        )
        everywhere = of_all_processes(index)
        for memory, new in ((self.student, v), (self.teacher, v_t)):
            self._remember(memory, everywhere, of_all_processes(new.detach()))
        return scores, scores_t

    def draw(self, index: Tensor, step: int) -> Tensor:
        """Indices of negatives, (B, M): uniform over the images of the classes that the image is not of."""
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        generator = torch.Generator(index.device).manual_seed(hash((self.seed, step, rank)) % 2**63)
        label = self.label[index]
        size = self.count[label][:, None]  # of the image's class, which begins at this place of the order:
        start = (self.count.cumsum(0) - self.count)[label][:, None]
        uniform = torch.rand(len(index), self.negatives, generator=generator, device=index.device, dtype=torch.float64)
        # in place, and with 32 bits, since these are a million numbers in each step
        place = uniform.mul_(len(self.label) - size).int()
        place.add_((place >= start.int()).int().mul_(size.int()))
        return self.order.take(place.long())

    @torch.no_grad()
    def _set_constants(self, found: Sequence[Scores]) -> None:
        """Z = N · mean score of the first batch, of all processes, for either network."""
        every = [torch.cat([positive[:, None], others], dim=1) for positive, others in found]
        means = torch.stack([of_all_processes(scores).mean() for scores in every]) * len(self.label)
        self.constants.copy_(torch.where(self.constants > 0, self.constants, means))

    @torch.no_grad()
    def _remember(self, memory: Tensor, index: Tensor, new: Tensor) -> None:
        mixed = self.momentum * memory[index] + (1 - self.momentum) * new
        memory.index_copy_(0, index, mixed / torch.linalg.vector_norm(mixed, dim=1, keepdim=True))
