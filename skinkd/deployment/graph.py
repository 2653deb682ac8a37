"""A trained network as a graph that runs without us: ONNX, and PyTorch's own export."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from skinkd.models.fold import fold_batch_norms

INPUT, LOGITS, PROBABILITIES = "image", "logits", "probabilities"


class Deployed(nn.Module):
    """A network's logits and probabilities, and where asked the probabilities of its exits.

    Args:
        network: images (N, 3, H, W) to logits (N, K); with ``exits``, a hybrid network.
        exits: names of the exits to give, in the network's order.
    """

    def __init__(self, network: nn.Module, exits: Sequence[str]) -> None:
        super().__init__()
        self.network: Any = network
        self.exits = tuple(exits)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Logits, probabilities and the probabilities of each exit, float32 (N, K), of images (N, 3, H, W)."""
        if not self.exits:
            logits = self.network(image)
            return logits, logits.softmax(dim=1)
        features = self.network.features(image)
        ways = (features.exits[name].softmax(dim=1) for name in self.exits)
        return features.logits, features.logits.softmax(dim=1), *ways


def example_images(image_size: int, input_type: str) -> Tensor:
    """Two blank images: the exporter takes a batch of one for a constant."""
    dtype = torch.uint8 if input_type == "uint8" else torch.float32
    return torch.zeros(2, 3, image_size, image_size, dtype=dtype)


def trace(
    network: nn.Module, *, image_size: int, input_type: str, exits: Sequence[str]
) -> torch.export.ExportedProgram:
    """Return the network as a graph for any number of images, with its batch normalisations folded.

    Args:
        network: in eval mode, on the CPU; it is not changed.
        image_size: height and width of the images.
        input_type: "uint8", or "float" for images in [0, 1].
        exits: as of ``Deployed``.
    """
    images = example_images(image_size, input_type)
    deployed = Deployed(fold_batch_norms(network, images), exits).eval()
    with torch.no_grad():
        return torch.export.export(deployed, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, *, exits: Sequence[str], metadata: Mapping[str, str]
) -> None:
    """Write a traced network as ONNX: input ``image``, outputs ``logits``, ``probabilities`` and the exits."""
    names = [LOGITS, PROBABILITIES, *exits]
    exported = torch.onnx.export(program, dynamo=True, input_names=[INPUT], output_names=names, verbose=False)
    assert exported is not None
    exported.save(path)
    write_metadata(path, metadata)


def write_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Give an ONNX file this metadata, and remove what tools wrote about themselves and the machine."""
    model = onnx.load(path)
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]  # the exporter's stack traces name files of this machine
    model.doc_string = ""
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.save(model, path)
