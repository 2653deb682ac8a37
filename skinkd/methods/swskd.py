"""SW-SKD: stepwise self-knowledge distillation, from the last stage to the first; teacher-free.

Source: Zheng et al., Scientific Reports 15:25238 (2025), doi 10.1038/s41598-025-10717-4. No code was released, and only the
abstract is open to us. The abstract names feature rectification (FRB), logit rectification (LRB), and their direction from
back to front. The equations, the weights and the temperature are our reconstruction.
"""

from functools import cache
from typing import Any

from torch import Tensor, nn

from skinkd.batch import Batch
from skinkd.errors import UserError, check_choice, check_positive
from skinkd.losses.feature import attention_map_distance
from skinkd.losses.logit import kl_divergence, rectify
from skinkd.methods.base import Method
from skinkd.methods.terms import total
from skinkd.models.attention import ChannelSpatialGate, SimAM
from skinkd.models.backbone import Backbone
from skinkd.models.heads import AuxiliaryHead


class SWSKD(Method):
    """Each stage learns from the rectified logits and the attention-corrected features of the next stage.

    L = Σ_k CE(z_k, y) + λ_logit Σ_k L_LRB + λ_feat Σ_k L_FRB (+ CE of the gate's classifier), k = 1..S  [ours]

    Auxiliary heads, gate and the gate's classifier exist in training only; ``network`` alone is deployed.

    Args:
        temperature: T of the logit steps.
        rectify_mode: ``swap`` exchanges z_y and z_max; ``raise`` lifts z_y to z_max.
        target_stage: ``next`` teaches stage k from k + 1 (the chain); ``last`` teaches every stage from the last.
        attention: ``gate``, learned channel ⊗ spatial attention, or ``simam``, which has no parameters.
        attention_scope: ``last`` takes one attention at the last stage for every step; ``per_stage`` recomputes it.
        gate_reduction: reduction of the channel gate's bottleneck.
        gate_kernel: kernel size of the spatial gate's convolution.
        simam_lambda: λ of SimAM.
        head_reduction: reduction of the auxiliary heads' bottleneck.
        loss_weights: ``ce``, ``lrb`` (λ_logit), ``frb`` (λ_feat) and ``gate_ce``; a weight of 0 switches a block off.
            Without a gate (``frb`` 0, or ``simam``) ``gate_ce`` becomes 0.

    ``gate_ce`` is the cross-entropy of a classifier on the last stage's corrected features. The network is detached from it,
    so that it trains the gate alone, and switching FRB off changes nothing but FRB.  [ours]
    """

    term_names = ("ce", "lrb", "frb", "gate_ce")
    distillation_terms = ("lrb", "frb")
    hard_label_terms = ("lrb",)  # rectification puts the largest logit at the true class

    network: Backbone

    def __init__(
        self,
        network: Backbone,
        *,
        temperature: float,
        rectify_mode: str,
        target_stage: str,
        attention: str,
        attention_scope: str,
        gate_reduction: int,
        gate_kernel: int,
        simam_lambda: float,
        head_reduction: int,
        loss_weights: dict[str, float],
        **protocol: Any,
    ) -> None:
        check_choice("method.attention", attention, ("gate", "simam"))
        super().__init__(network, loss_weights=derived_weights(loss_weights, attention=attention), **protocol)
        self.temperature = check_positive("method.temperature", temperature)
        self.rectify_mode = check_choice("method.rectify_mode", rectify_mode, ("swap", "raise"))
        self.target_stage = check_choice("method.target_stage", target_stage, ("next", "last"))
        self.attention_scope = check_choice("method.attention_scope", attention_scope, ("last", "per_stage"))
        *earlier, last = network.stage_shapes
        channels = last[0]
        if self.uses("frb") and last[1:] == (1, 1):
            raise UserError(
                f"method.loss_weights.frb: the last stage of {network.name} is a single cell, whose normalised map is always "
                "1, so that FRB would be 0; use larger images (data.image_size), backbone.small_input=true, or "
                "method.loss_weights.frb=0"
            )
        self.heads = nn.ModuleList(
            AuxiliaryHead(shape, last, num_classes=network.num_classes, reduction=head_reduction) for shape in earlier
        )
        self.attention: nn.Module
        if self.uses("frb") and attention == "gate":
            self.attention = ChannelSpatialGate(channels, reduction=gate_reduction, kernel_size=gate_kernel)
        elif self.uses("frb"):
            self.attention = SimAM(lambda_=simam_lambda)
        if self.uses("gate_ce"):
            self.gate_classifier = nn.Linear(channels, network.num_classes)
        elif self.uses("frb"):
            self.attention.requires_grad_(False)  # no other term trains it: the corrected features are targets

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = batch.image[:, 0], batch.label
        features = self.network.features(image)
        aligned, logits = self._stage_outputs(features.stages, features.logits)
        corrected = cache(lambda: self._corrected(aligned))  # shared by two terms, and computed for them alone
        return self.combine(
            ce=lambda: total(self.criterion(z, label) for z in logits),
            lrb=lambda: self._logit_steps(logits, label),
            frb=lambda: self._feature_steps(aligned, corrected()),
            gate_ce=lambda: self.criterion(self.gate_classifier(corrected()[-1].mean(dim=(2, 3))), label),
        )

    def _stage_outputs(self, stages: tuple[Tensor, ...], last_logits: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """φ_k F_k (B, C, H, W) and z_k (B, K) for k = 1..S; φ_S is the identity and z_S the network's own logits."""
        outputs = [head(stage) for head, stage in zip(self.heads, stages[:-1], strict=True)]
        aligned = [feature for feature, _ in outputs] + [stages[-1]]
        logits = [z for _, z in outputs] + [last_logits]
        return aligned, logits

    def _teacher_of(self, stage: int) -> int:
        return stage + 1 if self.target_stage == "next" else -1

    def _logit_steps(self, logits: list[Tensor], label: Tensor) -> Tensor:
        """Σ_k KL_T(rectify(z_{k+1}, y) ‖ z_k), k = S−1..1."""
        return total(
            kl_divergence(
                logits[k],
                rectify(logits[self._teacher_of(k)], label, mode=self.rectify_mode),
                temperature=self.temperature,
            )
            for k in range(len(logits) - 1)
        )

    def _corrected(self, aligned: list[Tensor]) -> list[Tensor]:
        """F̂_k = φ_k F_k ⊙ A for every stage, detached from the network but not from the gate."""
        detached = [feature.detach() for feature in aligned]
        if self.attention_scope == "last":
            attention = self.attention(detached[-1])
            return [feature * attention for feature in detached]
        return [feature * self.attention(feature) for feature in detached]

    def _feature_steps(self, aligned: list[Tensor], corrected: list[Tensor]) -> Tensor:
        """Σ_k mean_b Σ_hw (Q(φ_k F_k) − Q(sg(F̂_{k+1})))², k = S−1..1."""
        return total(
            attention_map_distance(aligned[k], corrected[self._teacher_of(k)].detach()) for k in range(len(aligned) - 1)
        )


def derived_weights(loss_weights: dict[str, float], *, attention: str) -> dict[str, float]:
    """The loss weights with ``gate_ce`` 0 where there is no gate to train: ``frb`` is 0, or the attention is ``simam``.

    Raises:
        UserError: ``gate_ce`` was the only weight above 0.
    """
    if loss_weights.get("frb") and attention == "gate":
        return loss_weights
    derived = {name: 0.0 if name == "gate_ce" else weight for name, weight in loss_weights.items()}
    if any(loss_weights.values()) and not any(derived.values()):
        raise UserError(
            "method.loss_weights: ce=0, lrb=0 and frb=0 leave nothing to learn, because gate_ce trains the attention of frb; "
            "set one of the three above 0"
        )
    return derived
