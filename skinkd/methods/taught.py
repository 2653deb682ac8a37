"""What the methods with a teacher share: holding it outside the module tree."""

from typing import Any

from torch import Tensor, nn

from skinkd.methods.base import Method
from skinkd.models.teacher import Teacher


class Taught(Method):
    """A method whose student learns from a frozen teacher.

    The teacher is no submodule: it is in no checkpoint and no parameter list, under every strategy, and is moved to the
    device when training begins.

    Args:
        network: the student, which alone is deployed.
        teacher: the frozen teacher.
        teacher_state: weights of the teacher's checkpoint that are not its network's, by name.
    """

    teacher: Teacher

    def __init__(
        self, network: nn.Module, *, teacher: Teacher, teacher_state: dict[str, Tensor], **protocol: Any
    ) -> None:
        super().__init__(network, **protocol)
        self.__dict__["teacher"] = teacher
        self.teacher_state = teacher_state

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)
