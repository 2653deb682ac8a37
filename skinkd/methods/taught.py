"""The bases of the methods with a teacher, which they hold outside the module tree."""

from typing import Any, ClassVar

from torch import Tensor, nn

from skinkd.errors import UserError
from skinkd.losses.logit import standardize
from skinkd.methods.base import Method
from skinkd.models.teacher import Teacher


class Taught(Method):
    """A method whose student learns from a frozen teacher.

    The teacher is not a submodule. So no checkpoint and no parameter list has it, under every strategy. It moves to the device
    when training begins.

    Args:
        network: the student, which is deployed.
        teacher: the frozen teacher.
        teacher_state: further weights of the teacher's checkpoint by name, such as a projector's.

    Raises:
        UserError: all of ``logit_terms`` are off.
    """

    logit_terms: ClassVar[tuple[str, ...]] = ()
    """The terms that reach the student's logits. One of them must be on, or its classifier stays random; empty: any term is
    enough."""

    teacher: Teacher

    def __init__(
        self, network: nn.Module, *, teacher: Teacher, teacher_state: dict[str, Tensor], **protocol: Any
    ) -> None:
        super().__init__(network, **protocol)
        if self.logit_terms and not any(self.uses(term) for term in self.logit_terms):
            raise UserError(
                f"method.loss_weights: {', '.join(f'{term}=0' for term in self.logit_terms)} leaves the student's classifier "
                f"untrained, since no other term reaches its logits; set method.loss_weights.{self.logit_terms[0]} above 0"
            )
        self.__dict__["teacher"] = teacher
        self.teacher_state = teacher_state

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)


class LogitTaught(Taught):
    """A method whose student learns from its teacher's logits.

    Args:
        network: the student, which is deployed.
        logit_standardization: compare standardised logits (:func:`skinkd.losses.logit.standardize`), so that the student need
            not match the size of the teacher's logits. Stored runs may be older than the setting.
    """

    def __init__(self, network: nn.Module, *, logit_standardization: bool = False, **protocol: Any) -> None:
        super().__init__(network, **protocol)
        self.logit_standardization = logit_standardization

    def comparable(self, logits: Tensor) -> Tensor:
        """The logits (B, K) as the terms between student and teacher take them."""
        return standardize(logits) if self.logit_standardization else logits
