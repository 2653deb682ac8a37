"""Inference that stops at the first exit that is sure enough.

The rule of BranchyNet (Teerapittayanon et al., ICPR 2016), with the highest probability as confidence.
"""

import torch
from torch import Tensor

from skinkd.models.hybrid import HybridStudent


@torch.no_grad()
def early_exit(network: HybridStudent, image: Tensor, *, threshold: float) -> tuple[Tensor, Tensor]:
    """Return each image's probabilities at the output where it stops, (B, K), and the number of that output, (B,).

    The small CNN sees every image (output 0: ``exit_1``), the large branch only those whose highest probability stays below
    ``threshold`` there, and of them those below it at ``exit_2`` (output 1) go on to the final classifier (output 2).
    ``skinkd.scoring.early_exit`` gives accuracy and cost of a whole table at many thresholds.

    Args:
        network: a student in eval mode.
        image: (B, 3, H, W), uint8 or float in [0, 1].
        threshold: least highest probability to stop; above 1, every image goes to the end.

    Raises:
        ValueError: the network is in training mode, where BatchNorm would let the images of a batch change each other.
    """
    if network.training:
        raise ValueError("early_exit is for a network in eval mode; call network.eval() first")
    maps = [network.normalise(image)]
    for block in network.cnn:
        maps.append(block(maps[-1]))
    probability = network.exit_1(maps[-1]).float().softmax(dim=1)
    output = torch.zeros(len(image), dtype=torch.long, device=image.device)
    on = (probability.amax(dim=1) < threshold).nonzero()[:, 0]
    if len(on) == 0:
        return probability, output
    # the large branch, on what is left; its pass ends in the final classifier, which costs next to nothing
    late = network.fuse([map[on] for map in maps], network.conv.features(image[on]))
    second = late.exits["exit_2"].float().softmax(dim=1)
    to_end = second.amax(dim=1) < threshold
    probability[on] = torch.where(to_end[:, None], late.logits.float().softmax(dim=1), second)
    output[on] = 1 + to_end.long()
    return probability, output
