"""What quantization changes in the result of each layer, measured in one pass over the data.

A copy of the model computes every quantized layer twice from the same float32 input: as it is, and
from what the quantized input and weight mean. Only sums over the difference leave ONNX Runtime, so
memory does not grow with the data, nor with the size of the layers' results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtforge import Batches, Context, HighPrecision, Ranges, StepError
from trtforge.graph import add_initializer, constant, label, unique_name, value_names
from trtforge.reference import Provider
from trtforge_plugins.precision.observe import observe
from trtforge_plugins.precision.placement import Point, Wanted
from trtforge_plugins.precision.qdq_writer import LinearWriter
from trtforge_plugins.precision.quantized_weights import (
    FORMATS,
    channel_scales,
    quantize,
    scale_of,
)
from trtforge_plugins.precision.sampled_rows import on_cpu
from trtforge_plugins.precision.trial import usable_points

if TYPE_CHECKING:
    from trtforge.artifacts import Array

_INT8 = FORMATS["int8"]


@dataclass(frozen=True)
class Layer:
    """A Conv, Gemm or MatMul that ``insert-qdq`` will quantize."""

    point: Point
    amax: float
    """Range of its input."""

    @property
    def name(self) -> str:
        """Name of the node."""
        return label(self.point.node)

    @property
    def weight(self) -> Array:
        """The weight as it is now."""
        return np.asarray(constant(self.point.constant))

    @property
    def channel_axis(self) -> int:
        """Axis of the weight that counts the layer's output channels."""
        if self.point.rule == "conv":
            return 0
        return 0 if self.point.node.attributes.get_int("transB", 0) else 1

    @property
    def scales(self) -> Array:
        """What ``insert-qdq`` will choose for the weight."""
        return channel_scales(self.weight, self.point.axis, _INT8)

    def rounded(self) -> Array:
        """Return what the weight means after it was rounded to nearest."""
        scales, axis = self.scales, self.point.axis
        codes = quantize(self.weight, scales, axis, _INT8).astype(np.float32)
        return codes * spread(scales, axis, codes.ndim)


def spread(scales: Array, axis: int | None, rank: int) -> Array:
    """Return ``scales`` in the shape that multiplies a weight of ``rank`` dimensions."""
    return scales.reshape([-1 if index == axis else 1 for index in range(rank)])


@dataclass(frozen=True)
class Difference:
    """Sums over all results of one layer: the quantized one less the exact one."""

    sums: Array
    """Per output channel: float64[channels]."""
    squares: Array
    """The same of the squares."""
    count: int
    """Results per channel."""

    @property
    def mean(self) -> Array:
        """Return the mean of each channel: float64[channels]."""
        return self.sums / max(self.count, 1)

    @property
    def error(self) -> float:
        """Return the sum of squares over all channels."""
        return float(self.squares.sum())

    @property
    def error_without_mean(self) -> float:
        """Return the sum of squares that is left when each channel's mean is taken away."""
        return float((self.squares - np.square(self.sums) / max(self.count, 1)).sum())


def measure(
    ctx: Context, layers: Sequence[Layer], weights: Sequence[Array], provider: Provider
) -> list[Difference]:
    """Run the model on all data and return how each layer's result changes.

    Args:
        ctx: Holds the model, which stays as it is, and the data.
        layers: Layers of its main graph.
        weights: What the quantized weight of each means: float32 in the shape of the weight.
        provider: Where ONNX Runtime runs.

    Raises:
        StepError: a sum is NaN or infinite, or the model does not run on the data.
    """
    model = ctx.model.clone()
    nodes = {label(node): node for node in model.graph}
    shadows = _Shadows(model)
    values = [
        shadows.add(nodes[layer.name], layer, weight)
        for layer, weight in zip(layers, weights, strict=True)
    ]
    fetched = {value: value.dtype for group in values for value in group if value.dtype is not None}
    totals: dict[str, Array] = {}
    batches = ctx.get(Batches)
    for seen in observe(model, fetched, batches, provider=provider):
        ctx.progress.update("measuring layers", seen.batch, len(batches.feeds))
        for name, array in seen.tensors.items():
            totals[name] = totals.get(name, 0) + on_cpu(array).astype(np.float64)
    found = []
    for layer, group in zip(layers, values, strict=True):
        sums, squares, size = (totals[str(value.name)] for value in group)
        if not (np.isfinite(sums).all() and np.isfinite(squares).all()):
            raise StepError(f"the result of {layer.name} holds NaN or Inf on {batches.source}")
        found.append(Difference(sums, squares, int(size) // len(sums)))
    return found


class _Shadows:
    """Adds quantized copies of layers to a model, and the sums over what they change."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._taken = value_names(model.graph)
        self._zero = self._constant("shadow_zero", np.zeros((), np.int8))

    def add(
        self, node: ir.Node, layer: Layer, weight: Array
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Return the values of sum and sum of squares per channel, and of the number of results."""
        name = layer.name
        scale = self._constant(
            f"{name}_shadow_scale", np.array(scale_of(layer.amax, _INT8), np.float32)
        )
        inputs = list(node.inputs)
        codes = self._node("QuantizeLinear", (inputs[0], scale, self._zero))
        inputs[0] = self._node("DequantizeLinear", (codes, scale, self._zero))
        inputs[1] = self._constant(f"{name}_shadow_weight", weight.astype(np.float32))
        shadow = self._node(node.op_type, inputs, node.attributes)
        change = self._node("Sub", (shadow, node.outputs[0]))
        channels = weight.shape[layer.channel_axis]
        if layer.point.rule == "conv":
            axes = [0, *range(2, weight.ndim)]
        else:
            axes = [0]
            shape = self._constant("shadow_shape", np.array([-1, channels], np.int64))
            change = self._node("Reshape", (change, shape))
        along = self._constant("shadow_axes", np.array(axes, np.int64))
        squares = self._node("Mul", (change, change))
        sums = [self._sum(each, along, channels) for each in (change, squares)]
        size = self._node("Size", (change,))
        size.type, size.shape = ir.TensorType(ir.DataType.INT64), ir.Shape(())
        return sums[0], sums[1], size

    def _sum(self, value: ir.Value, axes: ir.Value, channels: int) -> ir.Value:
        total = self._node("ReduceSum", (value, axes), {"keepdims": ir.AttrInt64("keepdims", 0)})
        total.type, total.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([channels])
        return total

    def _constant(self, name: str, array: Array) -> ir.Value:
        return add_initializer(self._graph, name, np.asarray(array), self._taken)

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, ir.Attr] | None = None,
    ) -> ir.Value:
        name = unique_name(self._graph, f"shadow_{op_type}", self._taken)
        node = ir.Node("", op_type, inputs, list((attributes or {}).values()), name=name)
        node.outputs[0].name = name
        self._graph.append(node)
        return node.outputs[0]


def layers_to_quantize(
    ctx: Context, wanted: Wanted, why_not: Callable[[Layer], str | None] = lambda _: None
) -> list[Layer]:
    """Return the layers with a constant weight that ``insert-qdq`` will quantize, in graph order.

    Layers whose weight is not float32, or is read elsewhere too, are noted and left out, and so
    are those for which ``why_not`` gives a reason.
    """
    ranges = ctx.get(Ranges).by_tensor
    writer = LinearWriter(ctx.model, _INT8, ranges)
    found = []
    for point in usable_points(ctx.model, wanted, ranges):
        seen, weight = writer.range_of(point), point.constant
        if weight is None or seen is None:
            continue
        if weight.dtype != ir.DataType.FLOAT:
            ctx.note(label(point.node), "its weight is not float32: it is left as it is")
        elif len(weight.uses()) > 1:
            ctx.note(label(point.node), "another node reads its weight too: it is left as it is")
        else:
            layer = Layer(point, seen.amax)
            reason = why_not(layer)
            if reason:
                ctx.note(layer.name, reason)
            else:
                found.append(layer)
    return found


def wanted_of(ctx: Context, skip: Sequence[str], *, attention: bool) -> Wanted:
    """Return what ``insert-qdq`` will place with the same options."""
    kept = ctx.find(HighPrecision)
    targets = [target.name for target in ctx.request.targets]
    return Wanted("int8", tuple(skip), kept.nodes if kept else {}, attention, targets)
