"""The cost of a network's outputs: multiply-adds of one image."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from skinkd.models.backbone import Backbone
from skinkd.models.hybrid import HybridStudent, HybridTeacher


@torch.no_grad()
def count_macs(run: Callable[[], Any]) -> int:
    """Multiply-adds of the convolutions and matrix products in ``run()``: half the floating-point operations."""
    # eager: the counter does not see into compiled code
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


def network_macs(network: nn.Module, image_size: int) -> int:
    """Multiply-adds of one image through the whole network, in eval mode; the network's mode does not change."""
    was_training = network.training
    network.eval()
    image = torch.zeros(1, 3, image_size, image_size, device=next(network.parameters()).device)
    macs = count_macs(lambda: network(image))
    network.train(was_training)
    return macs


def exit_macs(network: HybridStudent | HybridTeacher, image_size: int) -> dict[str, int]:
    """Multiply-adds of one image up to each exit, and under ``""`` of the whole network with all its exits.

    The number of an exit is the cost of running the network in the order of ``exit_names`` up to this exit. The network's mode
    does not change.
    """
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    image = torch.zeros(1, 3, image_size, image_size, device=device)
    costs = _student(network, image) if isinstance(network, HybridStudent) else _teacher(network, image)
    network.train(was_training)
    return costs


def _student(network: HybridStudent, image: Tensor) -> dict[str, int]:
    def exit_1() -> None:
        map = network.normalise(image)
        for block in network.cnn:
            map = block(map)
        network.exit_1(map)

    whole = count_macs(lambda: network.features(image))
    classifier = count_macs(
        lambda: network.classifier(torch.zeros(1, network.feature_dim, device=image.device, dtype=torch.float32))
    )
    return {"exit_1": count_macs(exit_1), "exit_2": whole - classifier, "": whole}


def _teacher(network: HybridTeacher, image: Tensor) -> dict[str, int]:
    costs: dict[str, int] = {}
    before = 0
    for branch, exits, name in (
        (network.attention, network.attention_exits, "attention"),
        (network.conv, network.conv_exits, "conv"),
    ):
        heads = 0
        for k, head in enumerate(exits):
            trunk = count_macs(lambda: _up_to(branch, k, image))  # noqa: B023
            channels = branch.stage_shapes[k][0]
            heads += count_macs(lambda: head(torch.zeros(1, channels, 1, 1, device=image.device)))  # noqa: B023
            costs[f"{name}_exit_{k + 1}"] = before + trunk + heads
        before += count_macs(lambda: branch.features(image)) + heads  # noqa: B023
        costs[f"{name}_branch"] = before
    pooled = torch.zeros(1, network.feature_dim, device=image.device)
    costs[""] = before + count_macs(lambda: network.classifier(pooled))
    return costs


def _up_to(branch: Backbone, stage: int, image: Tensor) -> None:
    """Run a branch to one of its stages and no further."""
    assert branch._stages is not None
    branch.model.forward_intermediates(
        branch.normalise(image), indices=[branch._stages[stage]], stop_early=True, intermediates_only=True
    )
