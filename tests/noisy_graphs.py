"""Graphs as exporters leave them, of any number of nodes; tests and benchmarks simplify them.

    python tests/noisy_graphs.py transformer 5000 model.onnx

``transformer``: attention blocks with a dynamic batch; shapes are read by chains of Shape, Gather,
Unsqueeze and Concat, once for each of query, key and value; constants are nodes, weights pass
through Identity, numbers through pairs of Cast, layers end in Dropout. ``cnn``: residual blocks of
static shape, with bounds and pads computed by nodes. Weights are small: it is the nodes that count.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, HEADS, LENGTH = 32, 4, 16
CHANNELS, SIDE = 8, 8
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


class Exporter:
    """Collects the nodes of a graph and names their results, as an exporter does."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its result."""
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op_type, inputs, [f"{name}_out"], name=name, **attributes)
        )
        return f"{name}_out"

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        """Add a Constant node."""
        return self.op("Constant", value=numpy_helper.from_array(np.asarray(value, dtype)))

    def weight(self, *shape: int, scale: float = 1.0, around: float = 0.0) -> str:
        """Add a random initializer that is read through an Identity."""
        name = f"weight_{len(self.weights)}"
        array = around + scale * self._random.standard_normal(shape)
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return self.op("Identity", name)

    def ones(self, size: int) -> str:
        """Add an initializer of ones; all of one size are equal, under names of their own."""
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ones(size, np.float32), name))
        return name

    def model(self, source: Sequence[int | str], result: str) -> onnx.ModelProto:
        """Return the graph from input ``x`` to output ``y``, both float32 of one shape."""
        self.nodes.append(helper.make_node("Identity", [result], ["y"], name="result"))
        ends = [helper.make_tensor_value_info(name, FLOAT, source) for name in "xy"]
        graph = helper.make_graph(self.nodes, "exported", ends[:1], ends[1:], self.weights)
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def transformer(count: int) -> onnx.ModelProto:
    """Return attention blocks of at least ``count`` nodes, float32 ``[batch, LENGTH, WIDTH]``."""
    graph, value = Exporter(), "x"
    while len(graph.nodes) < count:
        value = _attention(graph, value)
        value = _feed_forward(graph, value)
    return graph.model(["batch", LENGTH, WIDTH], value)


def _attention(graph: Exporter, value: str) -> str:
    given, normal = value, _layer_norm(graph, value)
    query, key, keyed = (_split_heads(graph, _linear(graph, normal, WIDTH, WIDTH)) for _ in "qkv")
    key = graph.op("Transpose", key, perm=[0, 1, 3, 2])
    root = graph.op("Sqrt", graph.op("Cast", graph.constant(WIDTH // HEADS, np.int64), to=FLOAT))
    scores = graph.op("Div", graph.op("MatMul", query, key), root)
    shares = graph.op("Dropout", graph.op("Softmax", scores, axis=-1))
    mixed = graph.op("Transpose", graph.op("MatMul", shares, keyed), perm=[0, 2, 1, 3])
    joined = graph.op("Reshape", mixed, _shape(graph, mixed, WIDTH))
    return graph.op("Add", given, graph.op("Dropout", _linear(graph, joined, WIDTH, WIDTH)))


def _split_heads(graph: Exporter, value: str) -> str:
    parts = graph.op("Reshape", value, _shape(graph, value, HEADS, WIDTH // HEADS))
    return graph.op("Transpose", parts, perm=[0, 2, 1, 3])


def _shape(graph: Exporter, value: str, *rest: int) -> str:
    """Return batch and length as they are at run time, and ``rest``, as a shape."""
    axis = 2 if len(rest) == 1 else 1  # of the length, behind the heads where there are some
    dims = []
    for position in (0, axis):
        shape = graph.op("Shape", value)
        dim = graph.op("Gather", shape, graph.constant(position, np.int64), axis=0)
        dim = graph.op("Cast", graph.op("Cast", dim, to=INT64), to=INT64)
        dims.append(graph.op("Unsqueeze", dim, graph.constant([0], np.int64)))
    if axis == 2:
        dims[1] = graph.constant([LENGTH], np.int64)
    tail = [graph.constant([size], np.int64) for size in rest]
    return graph.op("Concat", *dims, *tail, axis=0)


def _linear(graph: Exporter, value: str, width: int, out: int) -> str:
    product = graph.op("MatMul", value, graph.weight(width, out, scale=width**-0.5))
    return graph.op("Add", product, graph.weight(out, scale=0.02))


def _layer_norm(graph: Exporter, value: str) -> str:
    centred = graph.op("Sub", value, graph.op("ReduceMean", value, axes=[-1]))
    square = graph.op("Pow", centred, graph.constant(2.0))
    spread = graph.op("Add", graph.op("ReduceMean", square, axes=[-1]), graph.constant(1e-5))
    normal = graph.op("Div", centred, graph.op("Sqrt", spread))
    return graph.op("Mul", normal, graph.op("Cast", graph.ones(WIDTH), to=FLOAT))


def _feed_forward(graph: Exporter, value: str) -> str:
    inner = _linear(graph, _layer_norm(graph, value), WIDTH, 2 * WIDTH)
    error = graph.op("Erf", graph.op("Div", inner, graph.constant(2**0.5)))
    gate = graph.op("Add", error, graph.constant(1.0))
    half = graph.op("Mul", graph.op("Mul", inner, gate), graph.constant(0.5))
    return graph.op("Add", value, graph.op("Dropout", _linear(graph, half, 2 * WIDTH, WIDTH)))


def cnn(count: int) -> onnx.ModelProto:
    """Return residual blocks of at least ``count`` nodes, float32 ``[1, CHANNELS, SIDE, SIDE]``."""
    graph, value = Exporter(), "x"
    while len(graph.nodes) < count:
        value = _residual(graph, value)
    return graph.model([1, CHANNELS, SIDE, SIDE], value)


def _residual(graph: Exporter, value: str) -> str:
    kernel = graph.weight(CHANNELS, CHANNELS, 3, 3, scale=(9 * CHANNELS) ** -0.5)
    one, half = graph.constant(1, np.int64), graph.constant(2, np.int64)
    pad = graph.op("Unsqueeze", graph.op("Div", one, half), graph.constant([0], np.int64))
    pads = graph.op("Concat", *[pad] * 8, axis=0)
    padded = graph.op("Pad", value, pads, graph.constant(0.0))  # by nothing: 1 // 2 is 0
    made = graph.op("Conv", padded, kernel, pads=[1, 1, 1, 1])
    made = graph.op(
        "BatchNormalization", made, graph.weight(CHANNELS, scale=0.1, around=1.0),
        graph.weight(CHANNELS, scale=0.1), graph.weight(CHANNELS, scale=0.1),
        graph.ones(CHANNELS),
    )  # fmt: skip
    limit = graph.constant(6.0)
    made = graph.op("Clip", made, graph.op("Neg", limit), limit)
    made = graph.op("Dropout", graph.op("Identity", made))
    shape = graph.op("Slice", graph.op("Shape", made), *_bounds(graph))
    whole = graph.op("Concat", graph.constant([1, CHANNELS], np.int64), shape, axis=0)
    made = graph.op("Reshape", made, whole)
    small = graph.op("Mul", made, graph.constant(0.1))
    return graph.op("Relu", graph.op("Add", value, small))


def _bounds(graph: Exporter) -> list[str]:
    return [graph.constant(numbers, np.int64) for numbers in ([2], [4], [0])]


def start(_: int) -> onnx.ModelProto:
    """Return a model of one node, whose time is that of starting a tool."""
    return Exporter().model(["batch", WIDTH], "x")


KINDS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "transformer": transformer, "cnn": cnn, "start": start,
}  # fmt: skip


def main() -> None:
    """Write one graph as the command line says: kind, number of nodes, path."""
    kind, count, path = sys.argv[1:]
    Path(path).write_bytes(KINDS[kind](int(count)).SerializeToString())


if __name__ == "__main__":
    main()
