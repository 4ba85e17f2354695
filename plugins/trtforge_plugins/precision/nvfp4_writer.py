"""NVFP4: FP4 numbers with an FP8 scale per block of 16 and one scale per tensor above them.

The form is TensorRT's: weights are dequantized twice, activations are quantized while running by
``TRT_FP4DynamicQuantize`` with a fixed scale per tensor (TensorRT documentation, "Working with
Quantized Types", NVFP4; Abecassis et al. 2025, arXiv:2509.25149).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trtforge.graph import constant
from trtforge_plugins.precision.placement import Point
from trtforge_plugins.precision.placement_rules import FP4_BLOCK
from trtforge_plugins.precision.qdq_writer import Writer
from trtforge_plugins.precision.quantized_weights import FORMATS, block_scales, quantize_blocks

_FP8 = FORMATS["float8e4m3fn"]
_LEAST_RANK, _MOST_RANK = 2, 3
_SMALLEST_HALF = 2.0**-14  # smallest normal float16: the model may be cast to it later


class NVFP4Writer(Writer):
    """Two levels of scales; matrix products only."""

    def why_not(self, point: Point) -> str | None:
        """Return why the point cannot be quantized here, or None when it can."""
        shape = point.tensor.shape
        if shape is None or not _LEAST_RANK <= len(shape) <= _MOST_RANK:
            found = "unknown" if shape is None else len(shape)
            return f"its input has {found} dimensions; TensorRT quantizes 2 or 3 to NVFP4"
        return super().why_not(point)

    def activation(self, value: ir.Value, amax: float, rule: str) -> list[ir.Node]:
        """Return the quantizer and the two nodes that dequantize its scales and numbers."""
        scale = self.number(f"{value.name}_scale", self._tensor_scale(amax), value)
        attributes = {
            "axis": -1, "block_size": FP4_BLOCK, "scale_type": ir.DataType.FLOAT8E4M3FN.value
        }  # fmt: skip
        name = f"{value.name}_TRT_FP4DynamicQuantize"
        quantize = ir.node(
            "TRT_FP4DynamicQuantize", (value, scale), attributes, domain="trt", num_outputs=2,
            name=name,
        )  # fmt: skip
        numbers, scales = quantize.outputs
        numbers.name, scales.name = name, f"{name}_scales"
        numbers.type = ir.TensorType(self.target.dtype)
        numbers.shape = value.shape
        scales.type = ir.TensorType(_FP8.dtype)
        self.graph.opset_imports.setdefault("trt", 1)
        first = self.node("DequantizeLinear", value, (scales, scale), {}, rule)
        self.rename(first, f"{name}_scales_DequantizeLinear")
        first.outputs[0].type = ir.TensorType(self.types[value])
        last = {"axis": -1, "block_size": FP4_BLOCK}
        inputs = (numbers, first.outputs[0])
        return [quantize, first, self.node("DequantizeLinear", value, inputs, last, rule)]

    def weight(self, value: ir.Value, point: Point) -> list[ir.Node]:
        """Return the nodes that dequantize the scales and the weight, both stored quantized."""
        array = np.asarray(constant(value))
        axis = 1 - (point.axis or 0)  # blocks lie along the sum
        tensor_scale = self._tensor_scale(float(np.abs(array).max(initial=0)))
        exact = block_scales(array, axis, FP4_BLOCK, self.target)
        smallest = 2.0**-9  # of FP8: a block of zeros must not divide by zero
        scales = np.clip(exact / tensor_scale, smallest, _FP8.largest).astype(_FP8.dtype.numpy())
        rounded = scales.astype(np.float32) * np.float32(tensor_scale)
        stored = quantize_blocks(array, rounded, axis, FP4_BLOCK, self.target)
        name = value.name
        above = self.number(f"{name}_tensor_scale", tensor_scale, value)
        low = self.add(f"{name}_scale", scales)
        codes = self.add(f"{name}_quantized", stored)
        first = self.node("DequantizeLinear", value, (low, above), {}, point.rule)
        self.rename(first, f"{name}_scale_DequantizeLinear")
        first.outputs[0].type = ir.TensorType(self.types[value])
        first.outputs[0].shape = ir.Shape(scales.shape)
        attributes = {"axis": axis, "block_size": FP4_BLOCK}
        inputs = (codes, first.outputs[0])
        return [first, self.node("DequantizeLinear", value, inputs, attributes, point.rule)]

    def _tensor_scale(self, amax: float) -> float:
        """Return the scale that maps ``amax`` to the largest FP4 number times the largest FP8 one.

        It is a float16 number, so that a later cast of the model changes nothing.
        """
        wanted = max(amax / (self.target.largest * _FP8.largest), _SMALLEST_HALF)
        half = np.float16(wanted)
        return float(half if half >= wanted else np.nextafter(half, np.float16(np.inf)))
