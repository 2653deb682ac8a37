"""The int8 file: which nodes stay in float32, its types, and that it is still the network."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_once  # noqa: F401
import pytest
from networks import SMALL, network, noise
from onnx import TensorProto, helper

from skinkd.deployment.engines import onnx_engine
from skinkd.deployment.graph import trace, write_metadata, write_onnx
from skinkd.deployment.quantize import classifiers, first_convolutions, name_nodes, output_softmaxes, quantize


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A depthwise network in float32, and two int8 forms of it."""
    folder = tmp_path_factory.mktemp("quantized")
    module = network(*SMALL["depthwise"])
    source = folder / "model.onnx"
    write_onnx(trace(module, image_size=64, input_type="uint8", exits=()), source, exits=(), metadata={})
    paths = {"source": source}
    for name, keep in (("kept", True), ("all", False)):
        paths[name] = folder / f"{name}.onnx"
        images = (batch for batch in np.split(noise(24), 3))
        quantize(source, paths[name], images, keep_first_convolution=keep, keep_classifier=keep)
        write_metadata(paths[name], {"a": "1"})
    return paths


def weights_of(path: Path, kind: str) -> list[int]:
    """The element types of the weights of all nodes of a kind, before they become float32."""
    graph = onnx.load(path).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    found = []
    for node in graph.node:
        if node.op_type == kind:
            source = made_by.get(node.input[1])
            found.append(types[node.input[1]] if source is None else types[source.input[0]])
    return found


def test_all_but_the_two_ends_are_int8_per_channel(files: dict[str, Path]) -> None:
    total = len(weights_of(files["source"], "Conv"))
    assert total > 10
    assert Counter(weights_of(files["kept"], "Conv")) == {TensorProto.INT8: total - 1, TensorProto.FLOAT: 1}
    assert weights_of(files["kept"], "Conv")[0] == TensorProto.FLOAT
    assert weights_of(files["kept"], "Gemm") == [TensorProto.FLOAT]
    assert Counter(weights_of(files["all"], "Conv")) == {TensorProto.INT8: total}
    assert weights_of(files["all"], "Gemm") == [TensorProto.INT8]
    graph = onnx.load(files["kept"]).graph
    kinds = {tensor.name: tensor for tensor in graph.initializer}
    activations = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert activations and {kinds[node.input[2]].data_type for node in activations} == {TensorProto.UINT8}
    scales = [
        kinds[node.input[1]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and kinds.get(node.input[0]) is not None
        if kinds[node.input[0]].data_type == TensorProto.INT8
    ]
    assert scales and all(len(scale.dims) == 1 for scale in scales), "a scale for each channel"


@pytest.mark.parametrize("name", ["kept", "all"])
def test_probabilities_add_up_and_are_near_those_of_float32(files: dict[str, Path], name: str) -> None:
    images = noise(64, seed=1)
    _, before = onnx_engine(files["source"], threads=1)(images)
    _, after = onnx_engine(files[name], threads=1)(images)
    assert np.abs(after.sum(axis=1) - 1).max() < 1e-5
    assert np.abs(before - after).max() < 0.2
    assert np.abs(before - after).max() > 1e-4, "int8 is not float32"
    assert files[name].stat().st_size < files["source"].stat().st_size / 2
    assert list(files[name].parent.glob("*.prepared*")) == []


def test_every_batch_counts_for_the_ranges(files: dict[str, Path], tmp_path: Path) -> None:
    """The same ranges in any order of the batches, one of which is far brighter than the others."""
    batches = [
        np.full((2, 3, 64, 64), level, np.uint8) + noise(2, seed=level) // 8 for level in (220, *range(0, 80, 10))
    ]
    made = {}
    for name, order in (("first", batches), ("last", batches[::-1]), ("without", batches[1:])):
        quantize(files["source"], tmp_path / name, iter(order), keep_first_convolution=False, keep_classifier=True)
        made[name] = (tmp_path / name).read_bytes()
    assert made["first"] == made["last"] != made["without"]


def graph_of(*nodes: Any, outputs: tuple[str, ...]) -> onnx.GraphProto:
    """A graph of (kind, inputs, output)."""
    made = [helper.make_node(kind, ins.split(), [out], name=f"{kind}>{out}") for kind, ins, out in nodes]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("image", *outputs)]
    return helper.make_graph(made, "g", info[:1], info[1:])


def test_the_ends_of_a_graph_with_two_branches_and_an_exit() -> None:
    graph = graph_of(
        ("Sub", "image mean", "normal"),
        ("Conv", "normal w", "a1"),
        ("Relu", "a1", "a2"),
        ("Conv", "a2 w", "a3"),
        ("Conv", "normal w", "b1"),
        ("MatMul", "b1 w", "b2"),
        ("Gemm", "a3 w", "exit"),
        ("Softmax", "exit", "exit_1"),
        ("Concat", "a3 b2", "both"),
        ("Gemm", "both w", "hidden"),
        ("Softmax", "hidden", "inner"),
        ("Gemm", "inner w", "logits"),
        ("Softmax", "logits", "probabilities"),
        outputs=("logits", "probabilities", "exit_1"),
    )
    assert first_convolutions(graph) == ["Conv>a1", "Conv>b1"]
    assert sorted(classifiers(graph)) == ["Gemm>exit", "Gemm>logits"]
    assert output_softmaxes(graph) == ["Softmax>exit_1", "Softmax>probabilities"]


def test_a_convolution_as_the_classifier() -> None:
    graph = graph_of(("Conv", "image w", "x"), ("Conv", "x w", "y"), ("Flatten", "y", "logits"), outputs=("logits",))
    assert classifiers(graph) == ["Conv>y"]


def test_nodes_of_one_name_get_names_of_their_own(tmp_path: Path) -> None:
    graph = graph_of(("Relu", "image", "x"), ("Relu", "x", "y"), outputs=("y",))
    for node in graph.node:
        node.name = "same"
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    name_nodes(tmp_path / "m.onnx")
    assert [node.name for node in onnx.load(tmp_path / "m.onnx").graph.node] == ["Relu_0", "Relu_1"]
