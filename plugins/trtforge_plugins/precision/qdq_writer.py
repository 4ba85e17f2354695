"""Writes the quantizing nodes of a placement into the graph."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtforge import Range
from trtforge.graph import add_initializer, constant, is_op, unique_name, value_names
from trtforge_plugins.precision.data_movement import sources
from trtforge_plugins.precision.element_types import element_types
from trtforge_plugins.precision.placement import Point
from trtforge_plugins.precision.quantized_weights import Format, channel_scales, quantize, scale_of

if TYPE_CHECKING:
    from trtforge.artifacts import Array

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})
RULE_KEY = "trtforge.rule"
"""Metadata key under which a node says which rule made it."""
_PROBABILITIES = Range(0.0, 1.0)


class Writer(ABC):
    """Quantizes each tensor and each weight once, however many nodes read it."""

    def __init__(self, model: ir.Model, target: Format, ranges: Mapping[str, Range]) -> None:
        self.graph = model.graph
        self.types = element_types(model)
        self.target = target
        self._ranges = ranges
        self._taken = value_names(model.graph)
        self._activations: dict[ir.Value, ir.Value] = {}
        self._weights: dict[tuple[ir.Value, int | None], ir.Value] = {}

    @abstractmethod
    def activation(self, value: ir.Value, amax: float, rule: str) -> list[ir.Node]:
        """Return nodes, in order, whose last result is ``value`` quantized and dequantized."""

    @abstractmethod
    def weight(self, value: ir.Value, point: Point) -> list[ir.Node]:
        """Return nodes, in order, that dequantize the stored weight."""

    def why_not(self, point: Point) -> str | None:
        """Return why the point cannot be quantized here, or None when it can."""
        value = point.tensor
        dtype = self.types.get(value)
        if dtype not in FLOATS:
            found_type = dtype.name.lower() if dtype else "of unknown type"
            return f"its input {value.name!r} is {found_type}; float32 or float16 is expected"
        found = self.range_of(point)
        if found is None:
            return f"its input {value.name!r} has no range"
        if not 0 < found.amax < math.inf:
            return (
                f"its input {value.name!r} was seen as {found.low:g}..{found.high:g}: no scale fits"
            )
        weight = constant(point.constant)
        if (
            weight is not None
            and not np.isfinite([weight.min(initial=0), weight.max(initial=0)]).all()
        ):
            return "its weight has a NaN or infinite entry"
        return None

    def apply(self, points: Sequence[Point]) -> None:
        """Quantize the inputs of one node."""
        found = [(point, self._origin(point.source), self.range_of(point)) for point in points]
        for point, tensor, values in found:
            if values is not None:
                self._apply(point, tensor, values.amax)

    def _apply(self, point: Point, tensor: ir.Value, amax: float) -> None:
        if tensor not in self._activations:
            nodes = self.activation(tensor, amax, point.rule)
            self._activations[tensor] = self._finish(nodes, tensor)
            producer = tensor.producer()
            if producer is None:
                self.graph.insert_before(self.graph[0], nodes)
            else:
                self.graph.insert_after(producer, nodes)
        reader, index = point.slot
        reader.replace_input_with(index, self._activations[tensor])
        weight = point.constant
        if weight is None or point.weight is None:
            return
        key = (weight, point.axis)
        if key not in self._weights:
            nodes = self.weight(weight, point)
            self._weights[key] = self._finish(nodes, weight)
            self.graph.insert_before(point.node, nodes)
        point.node.replace_input_with(point.weight, self._weights[key])
        if weight.is_initializer() and not weight.uses() and not weight.is_graph_output():
            self.graph.initializers.pop(str(weight.name))

    def _origin(self, tensor: ir.Value) -> ir.Value:
        """Return what ``tensor`` was before this writer quantized it for another node."""
        return next((old for old, new in self._activations.items() if new is tensor), tensor)

    def range_of(self, point: Point) -> Range | None:
        """Return the range of the values, which may have been measured before they were moved."""
        for source in sources(self._origin(point.tensor)):
            found = self._ranges.get(str(source.name))
            if found is not None:
                return found
            if is_op(source.producer(), "Softmax"):
                return _PROBABILITIES
        return None

    def _finish(self, nodes: Sequence[ir.Node], about: ir.Value) -> ir.Value:
        """Give the last result the type and shape of ``about`` and return it."""
        result = nodes[-1].outputs[0]
        dtype = self.types.get(about)
        result.type = None if dtype is None else ir.TensorType(dtype)
        result.shape = about.shape
        return result

    def node(
        self,
        op_type: str,
        about: ir.Value,
        inputs: Sequence[ir.Value],
        attributes: Mapping[str, int],
        rule: str,
    ) -> ir.Node:
        """Make a node whose name tells the tensor it is about; the caller puts it in place."""
        name = unique_name(self.graph, f"{about.name}_{op_type}", self._taken)
        node = ir.node(op_type, inputs, attributes or None, name=name)
        node.metadata_props[RULE_KEY] = f"insert-qdq: {rule}"
        node.outputs[0].name = name
        return node

    def rename(self, node: ir.Node, name: str) -> None:
        """Give a node that this writer made, and its result, another name."""
        self._taken.discard(node.name)
        node.name = node.outputs[0].name = unique_name(self.graph, name, self._taken)

    def number(self, name: str, value: float, like: ir.Value) -> ir.Value:
        """Add a constant of the floating-point type that ``like`` has."""
        return self.add(name, np.array(value, self.types[like].numpy()))

    def add(self, name: str, array: Array) -> ir.Value:
        """Add a constant under ``name``, made unique."""
        return add_initializer(self.graph, name, array, self._taken)


class LinearWriter(Writer):
    """QuantizeLinear and DequantizeLinear: one scale per activation and per output channel."""

    _zero: ir.Value | None = None

    def activation(self, value: ir.Value, amax: float, rule: str) -> list[ir.Node]:
        """Return a pair with the scale that maps ``amax`` to the format's largest number."""
        scale = self.number(f"{value.name}_scale", scale_of(amax, self.target), value)
        if self._zero is None:
            zero = np.zeros((), self.target.dtype.numpy())
            name = f"zero_{self.target.dtype.name.lower()}"
            self._zero = self.add(name, zero)
        quantized = self.node("QuantizeLinear", value, (value, scale, self._zero), {}, rule)
        quantized.outputs[0].type = ir.TensorType(self.target.dtype)
        quantized.outputs[0].shape = value.shape
        inputs = (quantized.outputs[0], scale, self._zero)
        return [quantized, self.node("DequantizeLinear", value, inputs, {}, rule)]

    def weight(self, value: ir.Value, point: Point) -> list[ir.Node]:
        """Return the node that dequantizes the weight, which is stored quantized."""
        array = np.asarray(constant(value))
        scales = channel_scales(array, point.axis, self.target)
        stored = quantize(array, scales, point.axis, self.target)
        inputs = (
            self.add(f"{value.name}_quantized", stored),
            self.add(f"{value.name}_scale", scales.astype(array.dtype)),
        )
        attributes = {} if point.axis is None else {"axis": point.axis}
        return [self.node("DequantizeLinear", value, inputs, attributes, point.rule)]
