"""DLB: self-distillation from the last mini-batch. Each batch is seen again one step later, and agrees with its past logits.

Source: Shen et al., CVPR 2022, and its public code.
"""

from typing import Any

import torch
from torch import Tensor

from skinkd.batch import Batch
from skinkd.errors import check_positive
from skinkd.losses.logit import kl_divergence
from skinkd.methods.base import Method
from skinkd.methods.memory import of_all_processes
from skinkd.models.backbone import Backbone


class DLB(Method):
    """L = CE([z', z], [y', y]) + α · KL_T(sg z̄' ‖ z').

    z are the logits of the batch, z' those of another view of the last batch, and z̄' the logits that the last batch had in the
    last step. The first step has no last batch: L = CE(z, y).

    Args:
        temperature: T.

    The loss weights are ``ce`` and ``last`` (α). The last logits and labels are in the checkpoint; the images of the last batch
    are loaded again.
    """

    views = "last_batch"
    term_names = ("ce", "last")
    distillation_terms = ("last",)
    hard_label_terms = ("last",)  # the last batch would be mixed anew, with labels other than the remembered

    network: Backbone

    def __init__(self, network: Backbone, *, temperature: float, **protocol: Any) -> None:
        super().__init__(network, **protocol)
        self.temperature = check_positive("method.temperature", temperature)
        self.last: tuple[Tensor, Tensor] | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, image_of_last, label = batch.image[:, 0], batch.image[:, 1], batch.label
        logits = self.network(image)
        if self.last is None or not self.uses("last"):
            loss = self.combine(ce=lambda: self.criterion(logits, label), last=lambda: logits.new_zeros(()))
        else:
            last_logits, last_label = (rows.to(self.device) for rows in self.last)
            again = self.network(image_of_last)
            loss = self.combine(
                ce=lambda: self.criterion(torch.cat([again, logits]), torch.cat([last_label, label])),
                last=lambda: kl_divergence(again, last_logits, temperature=self.temperature),
            )
        self.last = logits.detach(), label
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.last is not None:
            checkpoint["last_batch"] = [of_all_processes(rows).cpu() for rows in self.last]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "last_batch" in checkpoint:
            logits, label = (rows.chunk(self.trainer.world_size) for rows in checkpoint["last_batch"])
            self.last = logits[self.trainer.global_rank], label[self.trainer.global_rank]
