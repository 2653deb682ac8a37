"""The teacher of MSKD: a hybrid network whose exits are all trained at once on hard labels.

Source: Pavel et al., Scientific Reports 15:39792 (2025), and its public code.
"""

from typing import Any

import torch
from torch import Tensor

from skinkd.batch import Batch
from skinkd.errors import UserError
from skinkd.methods.base import Method
from skinkd.models.hybrid import HybridTeacher

BRANCHES = ("attention_branch", "conv_branch")


class MSKDTeacher(Method):
    """L = λ_a/n_a · Σ CE(attention exits) + λ_c/n_c · Σ CE(convolutional exits) + λ_b · Σ CE(branches) + λ · CE(combined).

    The loss weights are ``attention_exits``, ``conv_exits``, ``branches`` and ``combined``.

    Raises:
        UserError: the network is not a hybrid teacher.
    """

    term_names = ("attention_exits", "conv_exits", "branches", "combined")
    trains_exits = True
    network: HybridTeacher

    def __init__(self, network: HybridTeacher, **protocol: Any) -> None:
        if not isinstance(network, HybridTeacher):
            raise UserError(
                "method=mskd_teacher trains a network with two branches and exits; set backbone=mskd_teacher"
            )
        super().__init__(network, **protocol)
        names = network.exit_names
        self.members = {
            "attention_exits": [name for name in names if name.startswith("attention_exit_")],
            "conv_exits": [name for name in names if name.startswith("conv_exit_")],
            "branches": list(BRANCHES),
        }
        network.attention_exits.requires_grad_(self.uses("attention_exits"))
        network.conv_exits.requires_grad_(self.uses("conv_exits"))
        network.classifier.requires_grad_(self.uses("combined"))
        for branch in (network.attention, network.conv):
            branch.model.get_classifier().requires_grad_(self.uses("branches"))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = batch.image[:, 0], batch.label
        features = self.network.features(image)

        def losses(term: str) -> Tensor:
            return torch.stack([self.criterion(features.exits[name], label) for name in self.members[term]])

        return self.combine(
            attention_exits=lambda: losses("attention_exits").mean(),
            conv_exits=lambda: losses("conv_exits").mean(),
            branches=lambda: losses("branches").sum(),
            combined=lambda: self.criterion(features.logits, label),
        )

    def predict(self, image: Tensor) -> dict[str, Tensor]:
        features = self.network.features(image)
        # an exit that no term trains is a random classifier
        trained = {name for term, names in self.members.items() if self.uses(term) for name in names}
        return {"": features.logits} | {name: z for name, z in features.exits.items() if name in trained}
