"""Step ``insert-qdq``: explicit quantization, as TensorRT reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from trtforge import Context, Pass, Quantized, Range, Ranges, StepError
from trtforge.graph import add_initializer, constant, label, opset, unique_name
from trtforge_plugins.precision.element_types import element_types
from trtforge_plugins.precision.placement import Placement, Point, place
from trtforge_plugins.precision.quantized_weights import (
    FORMATS,
    Format,
    channel_scales,
    quantize,
    scale_of,
)

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})
RULE_KEY = "trtforge.rule"
"""Metadata key under which a node says which rule made it."""


@dataclass(frozen=True)
class InsertQDQ(Pass):
    """Insert QuantizeLinear and DequantizeLinear where TensorRT turns them into 8-bit kernels.

    Symmetric: activations get one scale per tensor (largest magnitude / 127 for INT8, / 448 for
    FP8), weights one per output channel and are stored quantized. Biases, results and everything
    that is not named here stay as they are.
    """

    name = "insert-qdq"
    needs = (Ranges,)
    gives = (Quantized,)
    checkpoint = True

    dtype: Literal["int8", "float8e4m3fn"] = "int8"
    """Type of the quantized tensors; float8e4m3fn needs sm_89 or newer."""
    skip: tuple[str, ...] = ()
    """Glob patterns of node names or operators to leave in high precision."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Insert the pairs and give :class:`Quantized`.

        Raises:
            StepError: the opset is too old, or no candidate has a range.
        """
        target = FORMATS[self.dtype]
        if opset(model) < target.opset:
            raise StepError(
                f"{self.dtype} Q/DQ needs opset {target.opset}; the model has {opset(model)}",
                remedy=f"put upgrade-opset before insert-qdq (to {max(target.opset, 21)})",
            )
        placement = place(model, self.skip, self.dtype)
        for node, reason in placement.refused:
            ctx.note(label(node), reason)
        for pattern in placement.unmatched:
            ctx.note(pattern, "this skip pattern matches no node that could be quantized")
        writer = _Writer(model, target, ctx.get(Ranges).by_tensor)
        done = [point for point in placement.points if self._apply(point, writer, ctx)]
        _complain_without_ranges(placement, done)
        heavy = dict.fromkeys(label(point.node) for point in done if point.weight is not None)
        ctx.put(Quantized(self.dtype, tuple(heavy)))
        return len(done)

    def _apply(self, point: Point, writer: _Writer, ctx: Context) -> bool:
        reason = writer.why_not(point)
        if reason:
            ctx.note(label(point.node), reason)
            return False
        writer.apply(point)
        return True


def _complain_without_ranges(placement: Placement, done: list[Point]) -> None:
    if not placement.points:
        raise StepError(
            "the model has no node to quantize",
            remedy="the notes say why each Conv, Gemm and MatMul was left out",
        )
    if not done:
        raise StepError(
            f"none of the {len(placement.points)} nodes to quantize has a usable range",
            remedy="calibrate after the steps that rename or replace tensors, on data that fits",
        )


class _Writer:
    """Adds the nodes; each tensor and each weight is quantized once, however many nodes use it."""

    def __init__(self, model: ir.Model, target: Format, ranges: Mapping[str, Range]) -> None:
        self._graph = model.graph
        self._types = element_types(model)
        self._target = target
        self._ranges = ranges
        self._activations: dict[ir.Value, ir.Value] = {}
        self._weights: dict[tuple[ir.Value, int], ir.Value] = {}
        self._zero: ir.Value | None = None

    def why_not(self, point: Point) -> str | None:
        """Return why the point cannot be quantized here, or None when it can."""
        value = point.tensor
        dtype = self._types.get(value)
        if dtype not in FLOATS:
            found_type = dtype.name.lower() if dtype else "of unknown type"
            return f"its input {value.name!r} is {found_type}; float32 or float16 is expected"
        found = self._ranges.get(str(value.name))
        if found is None:
            return f"its input {value.name!r} has no range"
        if not 0 < found.amax < math.inf:
            return (
                f"its input {value.name!r} was seen as {found.low:g}..{found.high:g}: no scale fits"
            )
        weight = constant(point.constant)
        if weight is not None and not np.isfinite(weight).all():
            return "its weight has a NaN or infinite entry"
        return None

    def apply(self, point: Point) -> None:
        """Quantize the inputs of one node."""
        if point.tensor not in self._activations:
            self._activations[point.tensor] = self._quantized_activation(point)
        point.node.replace_input_with(point.activation, self._activations[point.tensor])
        weight = point.constant
        if weight is None or point.weight is None:
            return
        key = (weight, point.axis)
        if key not in self._weights:
            self._weights[key] = self._quantized_weight(weight, point)
        point.node.replace_input_with(point.weight, self._weights[key])
        if weight.is_initializer() and not weight.uses() and not weight.is_graph_output():
            self._graph.initializers.pop(str(weight.name))

    def _quantized_activation(self, point: Point) -> ir.Value:
        value = point.tensor
        amax = self._ranges[str(value.name)].amax
        scale = np.array(scale_of(amax, self._target), self._types[value].numpy())
        scale_value = add_initializer(self._graph, f"{value.name}_scale", scale)
        if self._zero is None:
            zero = np.zeros((), self._target.dtype.numpy())
            self._zero = add_initializer(
                self._graph, f"zero_{self._target.dtype.name.lower()}", zero
            )
        quantized = self._node("QuantizeLinear", value, (value, scale_value, self._zero), {}, point)
        quantized.type = ir.TensorType(self._target.dtype)
        inputs = (quantized, scale_value, self._zero)
        result = self._node("DequantizeLinear", value, inputs, {}, point)
        result.type = ir.TensorType(self._types[value])
        producer = value.producer()
        new = [node for node in (quantized.producer(), result.producer()) if node is not None]
        if producer is None:
            self._graph.insert_before(self._graph[0], new)
        else:
            self._graph.insert_after(producer, new)
        return result

    def _quantized_weight(self, weight: ir.Value, point: Point) -> ir.Value:
        array = np.asarray(constant(weight))
        scales = channel_scales(array, point.axis, self._target)
        stored = quantize(array, scales, point.axis, self._target)
        name = str(weight.name)
        inputs = (
            add_initializer(self._graph, f"{name}_quantized", stored),
            add_initializer(self._graph, f"{name}_scale", scales.astype(array.dtype)),
        )
        result = self._node("DequantizeLinear", weight, inputs, {"axis": point.axis}, point)
        result.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        node = result.producer()
        if node is not None:
            self._graph.insert_before(point.node, node)
        return result

    def _node(
        self,
        op_type: str,
        about: ir.Value,
        inputs: Sequence[ir.Value],
        attributes: Mapping[str, int],
        point: Point,
    ) -> ir.Value:
        """Make a node whose name tells the tensor it is about; the caller puts it in place."""
        name = unique_name(self._graph, f"{about.name}_{op_type}")
        node = ir.node(op_type, inputs, attributes or None, name=name)
        node.metadata_props[RULE_KEY] = f"insert-qdq: {point.rule}"
        result = node.outputs[0]
        result.name = name
        result.shape = about.shape
        return result
