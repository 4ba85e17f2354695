"""Casts that TensorRT has no word for, in words that it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.float_bits import bits_of_float, float_of_bits
from trtforge_plugins.convert.number_types import GRIDS, INTEGERS, exact_cast
from trtforge_plugins.convert.rule import Refusal, Rule

T = ir.DataType
_FLOATS = frozenset({T.FLOAT, T.FLOAT16, T.BFLOAT16})


class CastLikeByType(Rule):
    """Write a CastLike as the Cast to the known type of its second input."""

    name: ClassVar[str] = "cast-like"
    ops: ClassVar[tuple[str, ...]] = ("CastLike",)
    concerns: ClassVar[str] = (
        "TensorRT takes CastLike for its own types only; a Cast says the type to other rules too"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__CastLike.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Cast to the type of the second input."""
        like = node.inputs[1]
        if like is None or like.dtype is None:
            return Refusal("the type of its second input is not known")
        saturate = node.attributes.get_int("saturate") if "saturate" in node.attributes else None
        return [build.op("Cast", node.inputs[0], to=like.dtype.value, saturate=saturate)]


class QuantizedCast(Rule):
    """Write a Cast to or from 8-bit floats or 4-bit integers as Q/DQ with scale 1."""

    name: ClassVar[str] = "quantized-cast"
    ops: ClassVar[tuple[str, ...]] = ("Cast",)
    concerns: ClassVar[str] = (
        'TensorRT: "Tensor has datatype FP8 but is not produced by ... Quantize ... layers"'
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Quantize to float8e4m3fn with scale 1, or dequantize from it and from int4."""
        source, target = node.inputs[0], node.outputs[0].dtype
        if source is None or source.dtype is None or build.opset < 19:
            return None
        if target == T.FLOAT8E4M3FN and source.dtype in _FLOATS:
            return self._quantize(node, source, build)
        if source.dtype == T.INT4 and build.opset < 21:
            return None
        if source.dtype == T.FLOAT8E4M3FN and target is not None and target not in GRIDS:
            return [self._dequantize(source, target, build)]
        if source.dtype == T.INT4 and target is not None and _is_even(source):
            return [self._dequantize(source, target, build)]
        return None

    def _quantize(self, node: ir.Node, source: ir.Value, build: Builder) -> list[ir.Value]:
        scale = build.const(1.0, source.dtype)
        zero = build.const(np.zeros((), T.FLOAT8E4M3FN.numpy()))
        if node.attributes.get_int("saturate", 1):
            return [build.op("QuantizeLinear", source, scale, zero)]
        # 464 lies between the largest value, 448, and the one that would follow; ties go to even.
        inside = build.op("LessOrEqual", build.op("Abs", source), 464.0)
        nan = build.const(np.nan, source.dtype)
        return [build.op("QuantizeLinear", build.op("Where", inside, source, nan), scale, zero)]

    def _dequantize(self, source: ir.Value, target: ir.DataType, build: Builder) -> ir.Value:
        kind = target if target in _FLOATS and target != T.BFLOAT16 else T.FLOAT
        number = build.op("DequantizeLinear", source, build.const(1.0, kind))
        return build.cast(number, target)


def _is_even(value: ir.Value) -> bool:
    """Whether the number of elements is known and even: TensorRT packs two 4-bit numbers a byte."""
    return (
        value.shape is not None
        and value.shape.is_static()
        and (int(np.prod(value.shape.numpy())) % 2 == 0)
    )


class BitCast(Rule):
    """Write a BitCast between integers, or between float32 and int32, as arithmetic."""

    name: ClassVar[str] = "bit-cast"
    ops: ClassVar[tuple[str, ...]] = ("BitCast",)
    concerns: ClassVar[str] = "TensorRT-RTX 1.7, TensorRT 10 and 11: no such operator"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__BitCast.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Cast where a Cast keeps the bits: between integers, from bool; else compute them."""
        source, target = node.inputs[0], node.outputs[0].dtype
        if source is None or source.dtype is None or target is None:
            return Refusal("its types are not known")
        if source.dtype == target:
            return [build.op("Identity", source)]
        same_width = source.dtype.bitwidth == target.bitwidth
        if same_width and source.dtype in INTEGERS and target in INTEGERS:
            return [self._wrapped(source, target, build)]
        if source.dtype == T.BOOL and target.bitwidth == 8 and target in INTEGERS:
            return [exact_cast(build, build.cast(source, T.INT32), target)]
        if (source.dtype, target) == (T.FLOAT, T.INT32):
            return [bits_of_float(build, source)]
        if (source.dtype, target) == (T.INT32, T.FLOAT):
            return [float_of_bits(build, source)]
        return Refusal(
            f"the bits of {source.dtype} as {target} are no arithmetic of TensorRT; only a custom "
            "op reads them"
        )

    def _wrapped(self, source: ir.Value, target: ir.DataType, build: Builder) -> ir.Value:
        low, high = INTEGERS[target]
        if target.bitwidth >= 32:
            return build.op("Cast", source, to=target.value)
        wide = build.cast(source, T.INT32)
        wrapped = build.op("Sub", build.op("Mod", build.op("Sub", wide, low), high - low + 1), -low)
        return exact_cast(build, wrapped, target)
