"""SSD-KD: self-supervised diverse knowledge distillation. This is the last of its three stages, the student's training.

The first two stages are separate runs: the teacher (``supervised``), then its self-supervision head (``ssdkd_projection``).

Source: Wang et al., Medical Image Analysis 84:102693 (2023), and the behaviour of its public code.
"""

from typing import Any, ClassVar

from torch import Tensor

from skinkd.batch import Batch
from skinkd.errors import UserError, check_positive, check_range
from skinkd.losses.feature import channel_relation
from skinkd.losses.logit import kl_divergence
from skinkd.losses.relational import rkd_angle, rkd_distance
from skinkd.losses.rotation import ROTATIONS, keep_mask, rotated_index, rotation_similarity
from skinkd.methods.taught import LogitTaught
from skinkd.models.backbone import Backbone
from skinkd.models.heads import ChannelRegressor, Projector


class SSDKD(LogitTaught):
    """A batch is B images in four rotations, image 0 at 0°, 90°, 180°, 270° first; N = 4B samples.

    L = λ_ce · CE(z⁰, y) + λ_kd · KL_T(z_t⁰ ‖ z⁰) + λ_kd_rotated · KL_T'(z_tʳ ‖ zʳ) + λ_ss · KL_T''(sim_t ‖ sim)
    + λ_rkd_distance · RKD-D + λ_rkd_angle · RKD-A + λ_channel_relation · CR

    z⁰ are the logits of the upright samples, zʳ those of the 3B rotated ones, sim (3B, B) the cosines of rotated to upright
    projections. The last three terms are the paper's dual relational loss over all N samples: of the pooled features, and of
    the last stages, where a regressor brings the student's to the shape of the teacher's. Of the samples that the teacher
    gets wrong, ``kd_rotated`` and ``ss`` keep the least wrong (error-level ranking): by the rank of the true class in
    ``kd_rotated``, and by the rank of the image's upright view in ``ss``.

    Args:
        temperature: T.
        temperature_rotated: T'.
        temperature_ss: T''.
        keep_wrong_rotated: fraction of the teacher's wrong rotated samples that ``kd_rotated`` keeps.
        keep_wrong_ss: fraction of the teacher's wrong retrievals that ``ss`` keeps.
        projector_width: width of both layers of the student's self-supervision head; None: that of its pooled features.
    """

    views: ClassVar[str] = "four_rotations"
    term_names = ("ce", "kd", "kd_rotated", "ss", "rkd_distance", "rkd_angle", "channel_relation")
    distillation_terms = term_names[1:]
    logit_terms = ("ce", "kd", "kd_rotated")
    hard_label_terms = ("kd_rotated",)  # error-level ranking asks for the rank of the true class

    network: Backbone

    def __init__(
        self,
        network: Backbone,
        *,
        temperature: float,
        temperature_rotated: float,
        temperature_ss: float,
        keep_wrong_rotated: float,
        keep_wrong_ss: float,
        projector_width: int | None,
        **protocol: Any,
    ) -> None:
        super().__init__(network, **protocol)
        self.temperature = check_positive("method.temperature", temperature)
        self.temperature_rotated = check_positive("method.temperature_rotated", temperature_rotated)
        self.temperature_ss = check_positive("method.temperature_ss", temperature_ss)
        check_range("method.keep_wrong_rotated", keep_wrong_rotated, low=0, high=1)
        check_range("method.keep_wrong_ss", keep_wrong_ss, low=0, high=1)
        self.keep_wrong_rotated, self.keep_wrong_ss = keep_wrong_rotated, keep_wrong_ss
        if self.uses("ss"):
            self.teacher.add_projector(trained_projector(self.teacher_state))
            width = projector_width or network.feature_dim
            self.projector = Projector(network.feature_dim, hidden_width=width, out_width=width)
        if self.uses("channel_relation"):
            self.regressor = ChannelRegressor(network.stage_shapes[-1], self.teacher.stage_shapes[-1])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = batch.image.flatten(0, 1), batch.label
        student, teacher = self.network.features(image), self.teacher(image)
        z, z_t = self.comparable(student.logits), self.comparable(teacher.logits)
        return self.combine(
            ce=lambda: self.criterion(upright(student.logits), label),
            kd=lambda: kl_divergence(upright(z), upright(z_t), temperature=self.temperature),
            kd_rotated=lambda: self._rotated_logits(rotated(z), rotated(z_t), label),
            ss=lambda: self._similarity(self.projector(student.pooled), self.teacher.project(teacher.pooled)),
            rkd_distance=lambda: rkd_distance(student.pooled, teacher.pooled),
            rkd_angle=lambda: rkd_angle(student.pooled, teacher.pooled),
            channel_relation=lambda: channel_relation(self.regressor(student.stages[-1]), teacher.stages[-1]),
        )

    def _rotated_logits(self, logits: Tensor, teacher_logits: Tensor, label: Tensor) -> Tensor:
        """KL_T'(z_tʳ ‖ zʳ) over the samples that error-level ranking keeps; logits (3B, K), labels (B,)."""
        kept = keep_mask(teacher_logits, label.repeat_interleave(ROTATIONS - 1), keep_wrong=self.keep_wrong_rotated)
        return kl_divergence(logits, teacher_logits, temperature=self.temperature_rotated, sample_mask=kept)

    def _similarity(self, projection: Tensor, teacher_projection: Tensor) -> Tensor:
        """KL_T''(sim_t ‖ sim) over the samples that error-level ranking keeps; projections (4B, D)."""
        teacher_similarity = rotation_similarity(teacher_projection)
        kept = keep_mask(teacher_similarity, rotated_index(teacher_similarity), keep_wrong=self.keep_wrong_ss)
        return kl_divergence(
            rotation_similarity(projection),
            teacher_similarity,
            temperature=self.temperature_ss,
            sample_mask=kept,
        )


def upright(rows: Tensor) -> Tensor:
    """The B rows at 0° of (4B, …)."""
    return rows[::ROTATIONS]


def rotated(rows: Tensor) -> Tensor:
    """The 3B other rows of (4B, …), in their order."""
    return rows.unflatten(0, (-1, ROTATIONS))[:, 1:].flatten(0, 1)


def trained_projector(state: dict[str, Tensor]) -> Projector:
    """The teacher's self-supervision head, from the weights of its checkpoint.

    Raises:
        UserError: the checkpoint has none.
    """
    prefix = "projector."
    weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not weights:
        raise UserError(
            "method.teacher.ckpt: this teacher has no self-supervision head; give a run of ssdkd_projection, or use "
            "method.teacher.run.method.teacher.ckpt=<this teacher> to have a head trained on it, or "
            "method.loss_weights.ss=0 to go without"
        )
    (hidden, inputs), out = weights["0.weight"].shape, len(weights["2.weight"])
    projector = Projector(inputs, hidden_width=hidden, out_width=out)
    projector.load_state_dict(weights)
    return projector
