"""Divides the channels of a tensor and multiplies weights by as much: the products stay the same.

The division is folded into what makes the tensor where that commutes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtforge.graph import add_initializer, constant, unique_name
from trtforge_plugins.precision.placement import Point

if TYPE_CHECKING:
    from trtforge.artifacts import Array

Fold = Callable[[], None]
"""Divides one constant; nothing is done before it is known that all can be."""


def divide_channels(
    graph: ir.Graph, tensor: ir.Value, factors: Array, readers: Sequence[Point]
) -> None:
    """Make ``readers`` read ``tensor / factors``.

    Args:
        graph: The graph of all of them.
        tensor: Its last axis holds the channels.
        factors: float32[channels].
        readers: Nodes that read it, with the input at which they do.
    """
    slots = {(point.node, point.activation) for point in readers}
    if set(map(tuple, tensor.uses())) == slots and not tensor.is_graph_output():
        folds = _folds(graph, tensor, factors)
        if folds:
            for fold in folds:
                fold()
            return
    divided = _divided(graph, tensor, factors)
    for node, index in slots:
        node.replace_input_with(index, divided)


def multiply_weight(graph: ir.Graph, point: Point, factors: Array) -> None:
    """Multiply the rows of the weight of a MatMul or Gemm; other readers keep the old one."""
    weight, index = point.constant, point.weight
    if weight is None or index is None:
        raise AssertionError("a matrix product of a placement has a weight")
    array = np.asarray(constant(weight))
    transposed = point.node.attributes.get_int("transB", 0)
    wide = factors if transposed else factors[:, None]
    _replace(graph, point.node, index, (array * wide).astype(array.dtype))


def _divided(graph: ir.Graph, tensor: ir.Value, factors: Array) -> ir.Value:
    inverse = (1 / factors).astype(np.float32)
    name = unique_name(graph, f"{tensor.name}_smoothed")
    node = ir.node(
        "Mul", (tensor, add_initializer(graph, f"{tensor.name}_inverse", inverse)), name=name
    )
    result = node.outputs[0]
    result.name, result.type, result.shape = name, tensor.type, tensor.shape
    producer = tensor.producer()
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    return result


def _folds(graph: ir.Graph, value: ir.Value | None, factors: Array) -> list[Fold] | None:
    """Return what divides the channels of ``value`` by changing constants; None: nothing can."""
    producer = None if value is None else value.producer()
    if value is None or producer is None or producer.graph is not graph:
        return None
    if value.is_graph_output() or producer.domain not in ("", "ai.onnx"):
        return None
    rule = _RULES.get(producer.op_type)
    return None if rule is None else rule(graph, producer, factors)


def _constants(
    graph: ir.Graph, node: ir.Node, indices: Sequence[int], factors: Array
) -> list[Fold]:
    def divide(index: int) -> Fold:
        array = np.asarray(constant(node.inputs[index]))
        return lambda: _replace(graph, node, index, (array / factors).astype(array.dtype))

    return [divide(index) for index in indices]


def _layer_norm(graph: ir.Graph, node: ir.Node, factors: Array) -> list[Fold] | None:
    affine = [index for index, value in enumerate(node.inputs) if index and value is not None]
    if any(_channels(node.inputs[index]) != len(factors) for index in affine):
        return None
    return _constants(graph, node, affine, factors)


def _matmul(graph: ir.Graph, node: ir.Node, factors: Array) -> list[Fold] | None:
    weight = constant(node.inputs[1])
    if weight is None or weight.ndim != 2 or weight.shape[1] != len(factors):
        return None
    return _constants(graph, node, [1], factors)


def _add(graph: ir.Graph, node: ir.Node, factors: Array) -> list[Fold] | None:
    index = _constant_side(node)
    if index is None or _channels(node.inputs[index]) not in (1, len(factors)):
        return None
    before = _of_only_reader(graph, node, 1 - index, factors)
    return None if before is None else [*_constants(graph, node, [index], factors), *before]


def _mul(graph: ir.Graph, node: ir.Node, factors: Array) -> list[Fold] | None:
    index = _constant_side(node)
    if index is not None:
        shape, length = node.outputs[0].shape, _channels(node.inputs[index])
        last = shape[-1] if shape else None  # a single factor says nothing of the channels
        fits = length is not None and len(factors) == (last if length == 1 else length)
        return _constants(graph, node, [index], factors) if fits else None
    for side in (1, 0):
        found = _of_only_reader(graph, node, side, factors)
        if found is not None:
            return found
    return None


def _relu(graph: ir.Graph, node: ir.Node, factors: Array) -> list[Fold] | None:
    """Positive factors commute with it."""
    return _of_only_reader(graph, node, 0, factors)


def _of_only_reader(
    graph: ir.Graph, node: ir.Node, index: int, factors: Array
) -> list[Fold] | None:
    value = node.inputs[index]
    return _folds(graph, value, factors) if value is not None and len(value.uses()) == 1 else None


def _constant_side(node: ir.Node) -> int | None:
    return next((i for i, value in enumerate(node.inputs) if constant(value) is not None), None)


def _channels(value: ir.Value | None) -> int | None:
    """Return the length of a constant along its last axis, its only one that is not 1."""
    array = constant(value)
    if array is None or array.dtype != np.float32:
        return None
    length = array.shape[-1] if array.ndim else 1
    return length if array.size == length else None


def _replace(graph: ir.Graph, node: ir.Node, index: int, array: Array) -> None:
    old = node.inputs[index]
    name = "weight" if old is None else str(old.name)
    new = add_initializer(graph, f"{name}_smoothed", array)
    node.replace_input_with(index, new)
    if old is not None and old.is_initializer() and not old.uses() and not old.is_graph_output():
        graph.initializers.pop(str(old.name))


_Rule = Callable[[ir.Graph, ir.Node, "Array"], "list[Fold] | None"]
_RULES: Mapping[str, _Rule] = MappingProxyType(
    {
        "LayerNormalization": _layer_norm, "RMSNormalization": _layer_norm, "MatMul": _matmul,
        "Add": _add, "Mul": _mul, "Relu": _relu,
    }
)  # fmt: skip
