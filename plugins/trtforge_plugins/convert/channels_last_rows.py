"""channels-last-rows: what a convolution gives is flattened as it lies in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge.graph import constant_tensor, is_op
from trtforge_plugins.clean.names import Names, add_constant
from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.facts import attribute, declared_size
from trtforge_plugins.convert.node_pass import NodePass, Taken
from trtforge_plugins.convert.rule import Refusal

_CHANNELS_LAST = ("Conv", "MaxPool", "AveragePool")
"""Operators whose results TensorRT keeps with the channels last."""
_BETWEEN = ("Relu", "Clip", "Dropout", "Identity")


@dataclass(frozen=True)
class ChannelsLastRows(NodePass):
    """Flatten with the channels last before a product, and order the rows of its matrix likewise.

    TensorRT-RTX 1.7.1 computes convolutions and pooling with the channels last; a Flatten of
    ``[batch, channels, height, width]`` costs a kernel that puts them first.
    """

    name: ClassVar[str] = "channels-last-rows"

    def rewrite_node(self, node: ir.Node, build: Builder, names: Taken) -> bool | Refusal:
        """Reorder what a product reads, and the rows of its matrix."""
        found = _flattened(node)
        if found is None:
            return False
        reason = _why_not(node)
        if reason is not None:
            return Refusal(reason)
        _reorder(node, found, build, names())
        return True


def _flattened(node: ir.Node) -> tuple[ir.Value, tuple[int, ...]] | None:
    """Return the features that a product reads flattened, and their shape without the batch."""
    if not is_op(node, "MatMul", "Gemm") or node.inputs[0] is None:
        return None
    flatten = node.inputs[0].producer()
    source = (
        flatten.inputs[0] if flatten is not None and is_op(flatten, "Flatten", "Reshape") else None
    )
    if source is None or source.shape is None or len(source.shape) not in (4, 5):
        return None
    shape = [dim if isinstance(dim, int) else 0 for dim in source.shape[1:]]
    if prod(shape[1:]) < 2 or shape[0] < 2 or not _lies_channels_last(source):
        return None
    flat = node.inputs[0].shape is not None and len(node.inputs[0].shape) == 2
    return (
        (source, tuple(shape)) if flat and declared_size(node.inputs[0], 1) == prod(shape) else None
    )


def _lies_channels_last(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and is_op(node, *_BETWEEN):
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    return node is not None and is_op(node, *_CHANNELS_LAST)


def _why_not(node: ir.Node) -> str | None:
    """Return why the rows of a matrix stay where they are, or None."""
    weight = node.inputs[1]
    held = None if weight is None or weight.is_graph_input() else constant_tensor(weight)
    if held is None or len(held.shape) != 2 or weight is None:
        return "its matrix is no constant"
    if len(weight.uses()) > 1 or weight.is_graph_output():
        return "something else reads its matrix, too"
    return "its first operand is transposed" if attribute(node, "transA", 0) else None


def _reorder(
    node: ir.Node, found: tuple[ir.Value, tuple[int, ...]], build: Builder, names: Names
) -> None:
    source, shape = found
    rank = len(shape) + 1
    turned = build.op("Transpose", source, perm=[0, *range(2, rank), 1])
    flat = build.reshape(turned, [-1, prod(shape)])
    graph, weight = node.graph, node.inputs[1]
    assert graph is not None  # noqa: S101  # the node came from a graph
    assert weight is not None  # noqa: S101  # _why_not() looked at it
    held = constant_tensor(weight)
    assert held is not None  # noqa: S101  # the same
    name = names.fresh(f"{weight.name}_channels_last")
    rows = _rows(held, shape, name, last=bool(attribute(node, "transB", 0)))
    fresh = add_constant(graph, node, name, rows)
    graph.insert_before(node, build.nodes)
    node.replace_input_with(0, flat)
    node.replace_input_with(1, fresh)
    if weight.is_initializer() and weight.graph is graph:
        graph.initializers.pop(str(weight.name))


def _rows(held: ir.TensorProtocol, shape: Sequence[int], name: str, *, last: bool) -> ir.LazyTensor:
    """Return a matrix whose rows, or columns where ``last``, are for channels-last features."""
    size = held.shape.numpy()

    def read() -> ir.TensorProtocol:
        array = np.asarray(held.numpy())
        order = np.arange(prod(shape)).reshape(shape)
        order = np.moveaxis(order, 0, -1).reshape(-1)
        return ir.Tensor(array[:, order] if last else array[order], dtype=held.dtype, name=name)

    return ir.LazyTensor(read, dtype=held.dtype, shape=ir.Shape(size), name=name)
