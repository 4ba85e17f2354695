"""QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear in forms that TensorRT lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge.graph import constant
from trtforge_plugins.convert.builder import Builder, rank
from trtforge_plugins.convert.number_types import GRIDS, INTEGERS, exact_cast, round_even
from trtforge_plugins.convert.rule import Refusal, Rule

T = ir.DataType
_FORMS = frozenset({T.INT8, T.FLOAT8E4M3FN, T.INT4, T.FLOAT4E2M1})
"""Types that TensorRT's quantization layers have."""
_BLOCKED = frozenset({T.INT4, T.FLOAT4E2M1})
_FLOATS = frozenset({T.FLOAT, T.FLOAT16, T.BFLOAT16})


class Quantize(Rule):
    """Write a QuantizeLinear that TensorRT lacks as division, rounding and clipping."""

    name: ClassVar[str] = "quantize"
    ops: ClassVar[tuple[str, ...]] = ("QuantizeLinear",)
    concerns: ClassVar[str] = (
        'TensorRT 10, 11, RTX 1.7: "Non-zero zero point is not supported"; no uint8, 16-bit, 2-bit '
        "or blocked int8 quantization"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Write y = saturate(round(x / scale) + zero_point), rounding ties to even."""
        source, scale = node.inputs[0], node.inputs[1]
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        target = node.outputs[0].dtype or (T.UINT8 if zero is None else zero.dtype)
        if source is None or scale is None or target is None or source.dtype is None:
            return Refusal("its types are not known")
        if _is_native(node, source, zero, target):
            return None
        shaped = _along_axis(node, source, build)
        if isinstance(shaped, Refusal):
            return shaped
        if target not in INTEGERS and target not in GRIDS:
            return Refusal(f"quantizing to {target} has no rewrite")
        # The division has the scale's type unless an attribute says otherwise (since opset 25).
        kind = T(node.attributes.get_int("precision", 0) or (scale.dtype or T.FLOAT).value)
        kind = kind if kind in _FLOATS else T.FLOAT
        number = build.op("Div", build.cast(source, kind), build.cast(shaped(scale), kind))
        if target in GRIDS:
            saturate = node.attributes.get_int("saturate", 1)
            return [build.op("Cast", build.cast(number, T.FLOAT), to=target.value,
                             saturate=saturate)]  # fmt: skip
        whole = build.cast(round_even(build, number), T.FLOAT)
        return [saturated(build, whole, None if zero is None else shaped(zero), target)]


def saturated(
    build: Builder, whole: ir.Value, zero: ir.Value | None, target: ir.DataType
) -> ir.Value:
    """Return float32 integers plus the integer ``zero`` as ``target``, clipped to its range.

    All numbers near the range are exact in float32, as no target has more than 16 bits.
    """
    low, high = INTEGERS[target]
    if zero is not None and not is_zero(zero):
        span = 2.0 * (high - low)  # room for every zero point
        whole = build.op("Max", build.op("Min", whole, span), -span)
        whole = build.op("Add", whole, build.cast(build.cast(zero, T.INT32), T.FLOAT))
    whole = build.op("Max", build.op("Min", whole, float(high)), float(low))
    return exact_cast(build, build.cast(whole, T.INT32), target)


class Dequantize(Rule):
    """Write a DequantizeLinear that TensorRT lacks as a subtraction and a multiplication."""

    name: ClassVar[str] = "dequantize"
    ops: ClassVar[tuple[str, ...]] = ("DequantizeLinear",)
    concerns: ClassVar[str] = (
        'TensorRT 10, 11, RTX 1.7: "Found unsupported input type of UINT8", "Non-zero zero point '
        'is not supported"'
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Write y = (x - zero_point) * scale."""
        source, scale = node.inputs[0], node.inputs[1]
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        if source is None or scale is None or source.dtype is None or scale.dtype is None:
            return Refusal("its types are not known")
        if _is_native(node, source, zero, source.dtype):
            return None
        shaped = _along_axis(node, source, build)
        if isinstance(shaped, Refusal):
            return shaped
        kind = T.FLOAT if source.dtype in GRIDS else T.INT32
        number = build.op("Cast", source, to=kind.value)
        if zero is not None and not is_zero(zero):
            number = build.op("Sub", number, build.op("Cast", shaped(zero), to=kind.value))
        # 16-bit differences are no float16 numbers, so the product is a float32's.
        product = build.op("Mul", build.cast(number, T.FLOAT),
                           build.cast(shaped(scale), T.FLOAT))  # fmt: skip
        return [build.cast(product, node.outputs[0].dtype or scale.dtype)]


class DynamicQuantize(Rule):
    """Write DynamicQuantizeLinear by its definition: a scale and zero point from the extremes."""

    name: ClassVar[str] = "dynamic-quantize"
    ops: ClassVar[tuple[str, ...]] = ("DynamicQuantizeLinear",)
    concerns: ClassVar[str] = "TensorRT 10, 11, RTX 1.7: no such operator, no uint8 arithmetic"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Write scale = (max - min) / 255 and zero_point = saturate(round(-min / scale))."""
        source = node.inputs[0]
        axes = rank(source)
        if source is None or axes is None:
            return Refusal("the rank of its input is not known")
        low = build.op("Min", self._extreme("ReduceMin", source, axes, build), 0.0)
        high = build.op("Max", self._extreme("ReduceMax", source, axes, build), 0.0)
        scale = build.op("Div", build.op("Sub", high, low), 255.0)
        zero = round_even(build, build.op("Div", build.op("Neg", low), scale))
        zero = build.cast(build.op("Max", build.op("Min", zero, 255.0), 0.0), T.INT32)
        whole = round_even(build, build.op("Div", source, scale))
        quantized = saturated(build, whole, zero, T.UINT8)
        return [quantized, scale, exact_cast(build, zero, T.UINT8)]

    def _extreme(self, op: str, source: ir.Value, axes: int, build: Builder) -> ir.Value:
        return build.reduce(op, source, range(axes), keepdims=False) if axes else source


def _is_native(node: ir.Node, source: ir.Value, zero: ir.Value | None, kind: ir.DataType) -> bool:
    """Whether TensorRT has a quantization layer of this form."""
    blocked = bool(node.attributes.get_int("block_size", 0))
    return (
        kind in _FORMS
        and (zero is None or kind in GRIDS or is_zero(zero))  # floats have no other zero point
        and (not blocked or kind in _BLOCKED)
        and not (blocked and zero is None and node.attributes.get_int("output_dtype", 0) == 0
                 and node.op_type == "QuantizeLinear")
        and not (kind in _BLOCKED and _is_odd(source))
        and not (kind == T.FLOAT4E2M1 and not blocked and node.op_type == "QuantizeLinear")
    )  # fmt: skip


def is_zero(value: ir.Value) -> bool:
    """Whether ``value`` is a constant that holds zeros only."""
    array = constant(value)
    return array is not None and not array.astype(np.float32).any()


def _is_odd(value: ir.Value) -> bool:
    """Whether the number of elements is odd: TensorRT packs two 4-bit numbers into a byte."""
    shape = value.shape
    return shape is not None and shape.is_static() and bool(np.prod(shape.numpy()) % 2)


class _AlongAxis:
    """Brings scales and zero points to a shape that broadcasts against the quantized tensor."""

    def __init__(self, build: Builder, axis: int, axes: int, indices: np.ndarray | None) -> None:
        self._build, self._axis, self._axes, self._indices = build, axis, axes, indices

    def __call__(self, value: ir.Value) -> ir.Value:
        if self._indices is not None:
            return self._blocked(value)
        size = constant(value)
        if rank(value) == 0 or (size is not None and size.size == 1 and rank(value) == 1):
            return value
        return self._build.unsqueeze(value, [a for a in range(self._axes) if a != self._axis])

    def _blocked(self, value: ir.Value) -> ir.Value:
        build, dtype = self._build, value.dtype
        if dtype in INTEGERS:  # TensorRT gathers no 8-bit unsigned integers
            value = build.op("Cast", value, to=T.INT32.value)
        return build.op("Gather", value, self._indices, axis=self._axis)


def _along_axis(node: ir.Node, source: ir.Value, build: Builder) -> _AlongAxis | Refusal:
    """Return what shapes the scale and zero point of ``node``."""
    axes, block = rank(source), node.attributes.get_int("block_size", 0)
    if axes is None:
        return Refusal("the rank of its input is not known")
    axis = node.attributes.get_int("axis", 1)
    axis = axis + axes if axis < 0 else axis
    if not block:
        return _AlongAxis(build, axis, axes, None)
    length = None if source.shape is None else source.shape[axis]
    if not isinstance(length, int):
        return Refusal(f"it is quantized in blocks along axis {axis}, whose length is not static")
    return _AlongAxis(build, axis, axes, np.arange(length, dtype=np.int64) // block)
