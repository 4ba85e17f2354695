"""Step ``quantize-weights``: weights in fewer bits, computation as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir

from trtforge import Context, HighPrecision, Pass, Quantized, StepError
from trtforge.graph import add_initializer, constant, label, unique_name
from trtforge_plugins.precision.data_movement import is_product_of_activations, sources
from trtforge_plugins.precision.insert_qdq import refuse_unfit
from trtforge_plugins.precision.placement import Point, Wanted, place
from trtforge_plugins.precision.qdq_writer import RULE_KEY
from trtforge_plugins.precision.quantized_weights import (
    FORMATS,
    block_scales,
    channel_scales,
    quantize,
    quantize_blocks,
)

if TYPE_CHECKING:
    from trtforge.artifacts import Array


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Store the weights of MatMul and Gemm as INT4 or INT8, and multiply in the type that was.

    Symmetric. INT4: -7 to 7, a scale per block of neighbours along the sum. INT8: -127 to 127, a
    scale per output. TensorRT reads a quarter or half of float16's bytes and multiplies in the type
    of the activations, which needs no calibration. It pays where reading weights is what takes the
    time (few rows, large matrices), and where memory is short.
    """

    name = "quantize-weights"
    gives = (Quantized,)
    checkpoint = True

    dtype: Literal["int4", "int8"] = "int4"
    """Type of the stored weights. int4 needs sm_80; int8 is unpacked by another kernel on sm_75."""
    block_size: Literal[16, 32, 64, 128] = 64
    """INT4 weights that share a scale; smaller blocks are more exact and larger in all."""
    skip: tuple[str, ...] = ()
    """Glob patterns of node names or operators whose weights stay as they are."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Quantize the weights and give :class:`Quantized`.

        Raises:
            StepError: the opset is too old, a target lacks the type, or no weight fits.
        """
        refuse_unfit(self.name, self.dtype, model, ctx.request.targets)
        kept = ctx.find(HighPrecision)
        placement = place(model, Wanted("int4", self.skip, kept.nodes if kept else {}))
        for node, reason in placement.refused:
            ctx.note(label(node), reason)
        for pattern in placement.unmatched:
            ctx.note(pattern, "this skip pattern matches no node whose weight could be quantized")
        stored: dict[tuple[ir.Value, int], ir.Value] = {}
        done: list[str] = []
        for point in placement.points:
            obstacle = self._why_not(point)
            if obstacle:
                ctx.note(label(point.node), obstacle)
                continue
            self._apply(model.graph, point, stored)
            done.append(label(point.node))
        if not done:
            raise StepError(
                "the model has no weight to quantize",
                remedy="the notes say why each MatMul and Gemm was left out",
            )
        ctx.put(Quantized(self.dtype, tuple(dict.fromkeys(done)), only_stored=True))
        return len(done)

    def _why_not(self, point: Point) -> str | None:
        weight = np.asarray(constant(point.constant))
        if weight.dtype not in (np.float32, np.float16):
            return f"its weight is {weight.dtype}; float32 or float16 is expected"
        if not np.isfinite(weight).all():
            return "its weight has a NaN or infinite entry"
        if self.dtype == "int8":
            return None
        if any(is_product_of_activations(value.producer()) for value in sources(point.tensor)):
            return "it follows attention: TensorRT-RTX would dequantize its weight beforehand"
        length = weight.shape[_sum_axis(point)]
        if length % self.block_size:
            return f"it adds up {length} products: no multiple of block_size {self.block_size}"
        return None

    def _apply(
        self, graph: ir.Graph, point: Point, stored: dict[tuple[ir.Value, int], ir.Value]
    ) -> None:
        value, axis = point.constant, point.axis or 0
        if self.dtype == "int4":
            axis = 1 - axis  # along which products are added up
        if value is None or point.weight is None:
            raise AssertionError("_why_not lets no point without a weight pass")
        if (value, axis) not in stored:
            node = self._dequantized(graph, value, axis)
            graph.insert_before(point.node, node)
            stored[value, axis] = node.outputs[0]
        point.node.replace_input_with(point.weight, stored[value, axis])
        if value.is_initializer() and not value.uses() and not value.is_graph_output():
            graph.initializers.pop(str(value.name))

    def _dequantized(self, graph: ir.Graph, value: ir.Value, axis: int) -> ir.Node:
        array = np.asarray(constant(value))
        codes, scales = self._stored(array, axis)
        inputs = (
            add_initializer(graph, f"{value.name}_quantized", codes),
            add_initializer(graph, f"{value.name}_scale", scales),
        )
        name = unique_name(graph, f"{value.name}_DequantizeLinear")
        attributes = {"axis": axis}
        if self.dtype == "int4":
            attributes["block_size"] = self.block_size
        node = ir.node("DequantizeLinear", inputs, attributes, name=name)
        node.metadata_props[RULE_KEY] = f"{self.name}: {self.dtype}"
        node.outputs[0].name = name
        node.outputs[0].type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        node.outputs[0].shape = ir.Shape(array.shape)
        return node

    def _stored(self, array: Array, axis: int) -> tuple[Array, Array]:
        """Return the codes, and their scales in the array's own type."""
        target, block = FORMATS[self.dtype], self.block_size
        if self.dtype == "int4":
            scales = _in_type(array, block_scales(array, axis, block, target))
            return quantize_blocks(array, scales.astype(np.float32), axis, block, target), scales
        scales = _in_type(array, channel_scales(array, axis, target))
        return quantize(array, scales.astype(np.float32), axis, target), scales


def _in_type(array: Array, scales: Array) -> Array:
    """Return the scales as they are stored: float16 rounds them, and must not round one to zero."""
    stored: Array = np.maximum(scales, np.finfo(array.dtype).tiny).astype(array.dtype)
    return stored


def _sum_axis(point: Point) -> int:
    """Return the axis of the weight along which products are added up."""
    return 1 - (point.axis or 0)
