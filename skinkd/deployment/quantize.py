"""Post-training quantization to int8 with ONNX Runtime: static, QDQ, per channel, with uint8 activations and int8 weights.

Ranges are the minimum and maximum of each activation over calibration images (Jacob et al., CVPR 2018; Krishnamoorthi,
arXiv:1806.08342). MSKD's system quantizes too, and its authors never scored the quantized network.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from skinkd.deployment.graph import INPUT

_PRODUCTS = ("Conv", "Gemm", "MatMul")


class Batches(CalibrationDataReader):
    """Calibration images for ONNX Runtime, a batch at a time."""

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> Any:
        """Return the next batch by the name of the input, or None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def quantize(
    source: Path, target: Path, batches: Iterable[np.ndarray], *, keep_first_convolution: bool, keep_classifier: bool
) -> None:
    """Write an int8 form of an ONNX file.

    Every operator that ONNX Runtime can quantize is quantized. A shorter list leaves the ReLU6 of MobileNet outside, and
    its ranges with it: balanced accuracy fell from .31 to .21 in a trial, with the same accuracy.

    Of each batch ONNX Runtime keeps two numbers for each activation, so the memory does not grow with the images. Its option
    CalibMaxIntermediateOutputs, which promises to bound the memory, forgets all batches but the last ones.

    Args:
        source: the ONNX file in float32.
        target: the file to write.
        batches: calibration images as the network takes them.
        keep_first_convolution: leave the convolutions that see the image in float32.
        keep_classifier: leave the products that give the logits in float32.
    """
    prepared = target.with_suffix(".prepared.onnx")
    silence = logging.getLogger()
    level = silence.level
    silence.setLevel(logging.ERROR)  # quantize_static advises to do what quant_pre_process has done
    try:
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        name_nodes(prepared)
        graph = onnx.load(prepared).graph
        kept = output_softmaxes(graph)
        kept += first_convolutions(graph) if keep_first_convolution else []
        kept += classifiers(graph) if keep_classifier else []
        quantize_static(
            prepared,
            target,
            Batches(batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=kept,
        )
    finally:
        silence.setLevel(level)
        prepared.unlink(missing_ok=True)


def name_nodes(path: Path) -> None:
    """Give each node of an ONNX file a name of its own: ONNX Runtime leaves nodes out of the quantization by name."""
    model = onnx.load(path)
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    onnx.save(model, path)


def output_softmaxes(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the softmaxes that give the probabilities; in steps of 1/255 these would not add up to 1."""
    outputs = {output.name for output in graph.output}
    return [node.name for node in graph.node if node.op_type == "Softmax" and outputs.intersection(node.output)]


def first_convolutions(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the convolutions that see the image and no output of another product."""
    behind: set[str] = set()  # tensors that a product has reached
    found = []
    for node in graph.node:
        reached = bool(behind.intersection(node.input))
        if node.op_type == "Conv" and not reached:
            found.append(node.name)
        if reached or node.op_type in _PRODUCTS:
            behind.update(node.output)
    return found


def classifiers(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the products that no other product follows: those that give logits."""
    ahead: set[str] = set()  # tensors that go into a product
    found = []
    for node in reversed(graph.node):
        follows = bool(ahead.intersection(node.output))
        if node.op_type in _PRODUCTS and not follows:
            found.append(node.name)
        if follows or node.op_type in _PRODUCTS:
            ahead.update(node.input)
    return found
