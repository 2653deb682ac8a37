"""What of a network can be explained: its final classifier and each of its early exits, with the layer of each map."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from skinkd.models.backbone import Backbone


class Layer(NamedTuple):
    """The place of a feature map inside a network.

    Attributes:
        name: for the reader of a result.
        module: the module whose output, or whose input, is the map.
        cells: (height, width) of the map.
        is_input: whether the map is the module's input.
        prefix: tokens before the map's cells, such as a class token.
    """

    name: str
    module: nn.Module
    cells: tuple[int, int]
    is_input: bool = False
    prefix: int = 0


class Output(NamedTuple):
    """One classifier of a network.

    Attributes:
        name: ``final``, or the name of an exit.
        logits: images (B, 3, H, W), float in [0, 1], to logits (B, K).
        layer: the feature map that Grad-CAM and Score-CAM read; None: no single map leads to these logits.
    """

    name: str
    logits: nn.Module
    layer: Layer | None


class _ExitLogits(nn.Module):
    """The logits of one exit of a hybrid network."""

    def __init__(self, network: Any, name: str) -> None:
        super().__init__()
        self.network, self.name = network, name

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, K)."""
        return self.network.features(image).exits[self.name]


def outputs_of(network: Any, *, image_size: int, cells: int) -> tuple[Output, ...]:
    """Return the final classifier of a network, and its exits if it is one of MSKD's hybrids.

    A hybrid's final classifier depends on several branches, so no single map leads to it: methods that only change the
    image explain it. Each exit has the map that it pools, and each branch the map of :func:`choose_layer`.

    Args:
        network: a :class:`~skinkd.models.backbone.Backbone`, ``HybridTeacher`` or ``HybridStudent``, in eval mode.
        image_size: height and width of its images, px.
        cells: as in :func:`choose_layer`.
    """
    if not hasattr(network, "exit_names"):
        return (Output("final", network, choose_layer(network, cells=cells)),)
    heads, branches = _heads(network, image_size), _branches(network)
    result = [Output("final", network, None)]
    for name in network.exit_names:
        layer = choose_layer(branches[name], cells=cells) if name in branches else heads[name]
        result.append(Output(name, _ExitLogits(network, name).eval(), layer))
    return tuple(result)


def _branches(network: Any) -> dict[str, Backbone]:
    """Return the timm network behind an exit, by the exit's name."""
    if hasattr(network, "attention"):
        return {"attention_branch": network.attention, "conv_branch": network.conv}
    return {"exit_2": network.conv}


def _heads(network: Any, image_size: int) -> dict[str, Layer]:
    """Return the pooled map of each exit that is a pooling and a linear layer, by the exit's name."""
    if hasattr(network, "attention"):
        heads = {}
        for branch in ("attention", "conv"):
            shapes: Sequence[tuple[int, int, int]] = getattr(network, branch).stage_shapes
            for k, (head, shape) in enumerate(zip(getattr(network, f"{branch}_exits"), shapes, strict=True), start=1):
                heads[f"{branch}_exit_{k}"] = Layer(f"stage {k} of {branch}", head, shape[1:], is_input=True)
        return heads
    side = image_size // 2 ** len(network.cnn)
    return {"exit_1": Layer("last map of the CNN", network.exit_1, (side, side), is_input=True)}


def choose_layer(network: Backbone, *, cells: int) -> Layer | None:
    """Return the layer of the stage that :func:`choose_stage` chooses; None: timm's table lacks maps of this network.

    A transformer's map is read after the first norm of the stage's last block. After that block, the patches of a network
    that classifies by its class token have no influence on the logits, so they have no gradient.
    """
    modules, shapes = network.stage_modules, network.stage_shapes
    if not modules:
        return None
    k = choose_stage([shape[1:] for shape in shapes], cells=cells)
    module, (height, width) = modules[k], shapes[k][1:]
    blocks = [inner for inner in module.modules() if hasattr(inner, "norm1") and hasattr(inner, "attn")]
    if blocks:
        module = blocks[-1].norm1
    name = next(name for name, inner in network.model.named_modules() if inner is module)
    prefix = int(getattr(network.model, "num_prefix_tokens", 0)) if blocks else 0
    return Layer(name, module, (height, width), prefix=prefix)


def choose_stage(sizes: Sequence[tuple[int, int]], *, cells: int) -> int:
    """Return which map Grad-CAM and Score-CAM read: the deepest of enough cells, else the finer of the last two (ours).

    Args:
        sizes: (height, width) of each stage's map, shallow to deep.
        cells: enough cells, in height and in width.
    """
    enough = [k for k, size in enumerate(sizes) if min(size) >= cells]
    last = range(max(0, len(sizes) - 2), len(sizes))
    return enough[-1] if enough else max(last, key=lambda k: (min(sizes[k]), k))


@contextmanager
def tapped(layer: Layer) -> Iterator[nn.Identity]:
    """Let the layer's map run through a module, as (B, C, h, w) whatever the network's layout, and yield that module.

    The network computes the same as before. So whatever reads or differentiates a module's output needs to know one layout.
    """
    tap = nn.Identity()

    def through(value: Tensor) -> Tensor:
        height, width = layer.cells
        if value.ndim == 3:  # tokens (B, P + h·w, C)
            grid = value[:, layer.prefix :].reshape(len(value), height, width, -1).permute(0, 3, 1, 2)
            return torch.cat([value[:, : layer.prefix], tap(grid).flatten(2).transpose(1, 2)], dim=1)
        if tuple(value.shape[2:]) == layer.cells:
            return tap(value)
        return tap(value.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, h, w, C)

    if layer.is_input:
        handle = layer.module.register_forward_pre_hook(lambda _, given: (through(given[0]), *given[1:]))
    else:
        handle = layer.module.register_forward_hook(lambda _module, _given, value: through(value))
    try:
        yield tap
    finally:
        handle.remove()
