"""Opens a trained network for use: from a run folder, or from a checkpoint alone."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from skinkd.build.checkpoints import find_checkpoint, open_checkpoint, rebuild
from skinkd.build.seen import run_config
from skinkd.models.backbone import Backbone
from skinkd.runs.folder import RunFolder


class Trained(NamedTuple):
    """A trained network and what its checkpoint and its run folder say of it.

    Attributes:
        network: the deployed network, in eval mode, on the CPU at first; images (B, 3, H, W), uint8, to logits (B, K).
        classes: the K class names, in the order of the logits.
        image_size: height and width of the network's images, px.
        card: the checkpoint's card (:class:`skinkd.build.checkpoints.Stored`).
        run: the run folder; None for a checkpoint outside a run folder.
        config: the run's configuration; None for a checkpoint outside a run folder.
    """

    network: Backbone
    classes: tuple[str, ...]
    image_size: int
    card: dict[str, Any]
    run: RunFolder | None
    config: dict[str, Any] | None

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return class probabilities (N, K) of images (N, 3, H, W), computed in float32 as in validation and test."""
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            logits = self.network(torch.from_numpy(np.ascontiguousarray(images)).to(device))
            return logits.float().softmax(dim=1).cpu().numpy().astype(np.float64)


def open_trained(given: str, *, setting: str = "run") -> Trained:
    """Read the best checkpoint of a run folder, or a checkpoint file.

    Args:
        given: a run folder or a checkpoint.
        setting: the key that gave it, for the error.

    Raises:
        UserError: there is no checkpoint, or it is not a checkpoint of this project.
    """
    checkpoint = find_checkpoint(given, setting=setting)
    stored = rebuild(open_checkpoint(checkpoint, setting=setting))
    config = run_config(checkpoint)
    return Trained(
        network=stored.network,
        classes=tuple(stored.card["classes"]),
        image_size=stored.card["backbone"]["image_size"],
        card=stored.card,
        run=None if config is None else RunFolder(checkpoint.parent.parent),
        config=config,
    )
