"""Imported by tests that write ONNX: the table of a thousand operators is built once, and not for each of their networks."""

from functools import cache

from torch.onnx._internal.exporter._registration import ONNXRegistry

ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign,assignment]
