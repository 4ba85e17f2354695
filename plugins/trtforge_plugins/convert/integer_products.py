"""Matrix products and convolutions of quantized integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder, rank, static_shape
from trtforge_plugins.convert.number_types import INTEGERS, round_even
from trtforge_plugins.convert.quantization import is_zero, saturated
from trtforge_plugins.convert.rule import Refusal, Rule

T = ir.DataType
_EXACT = 2**24
"""float32 holds every integer up to here, so sums of products below it are exact."""


class IntegerProduct(Rule):
    """Write MatMulInteger, ConvInteger, QLinearMatMul and QLinearConv with float32 products.

    The numbers stay integers, so that every product and sum is exact; TF32 keeps them as well, as
    they have at most 9 bits. With int8 and zero points 0 the operands become DQ with scale 1, for
    which TensorRT has INT8 kernels.
    """

    name: ClassVar[str] = "integer-product"
    ops: ClassVar[tuple[str, ...]] = (
        "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv",
    )  # fmt: skip
    concerns: ClassVar[str] = "TensorRT 10, 11, RTX 1.7: no such operators"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__QLinearMatMul.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Multiply the operands without their zero points, then scale, round and saturate."""
        linear = node.op_type.startswith("QLinear")
        operands = [*node.inputs, *([None] * 9)]
        a, a_zero = operands[0], operands[2]
        b, b_zero = (operands[3], operands[5]) if linear else (operands[1], operands[3])
        if a is None or b is None or rank(a) is None or rank(b) is None:
            return Refusal("the ranks of its operands are not known")
        parts = _parts(node, a, b)
        if isinstance(parts, Refusal):
            return parts
        is_conv = "Conv" in node.op_type
        left = _centered(build, a, a_zero, 1 if is_conv else _row_axis(a))
        right = _centered(build, b, b_zero, 0 if is_conv else -1)
        product = _product(node, left, right, parts, build)
        if not linear:
            return [build.cast(product, T.INT32)]
        return self._requantized(node, product, build)

    def _requantized(
        self, node: ir.Node, product: ir.Value, build: Builder
    ) -> Sequence[ir.Value | None] | Refusal:
        inputs = [*node.inputs, None]
        a_scale, b_scale, y_scale, y_zero = inputs[1], inputs[4], inputs[6], inputs[7]
        bias = inputs[8] if node.op_type == "QLinearConv" else None
        if a_scale is None or b_scale is None or y_scale is None or y_zero is None:
            return Refusal("a scale is left out")
        axes = rank(product) or rank(node.outputs[0])
        target = y_zero.dtype
        if axes is None or target is None or target not in INTEGERS:
            return Refusal("the rank or type of its result is not known")
        if bias is not None:
            whole = build.cast(product, T.INT32)
            product = build.op("Add", whole, build.unsqueeze(bias, _others(axes, 1)))
        scales = [build.cast(value, T.FLOAT) for value in (a_scale, b_scale, y_scale)]
        places = (1, 1, 1) if "Conv" in node.op_type else (-2, -1, -1)
        shaped = [
            _shaped(build, value, axes, place) for value, place in zip(scales, places, strict=True)
        ]
        factor = build.op("Div", build.op("Mul", shaped[0], shaped[1]), shaped[2])
        whole = round_even(build, build.op("Mul", build.cast(product, T.FLOAT), factor))
        zero = _shaped(build, y_zero, axes, places[2])
        return [saturated(build, whole, zero, target)]


def _centered(build: Builder, value: ir.Value, zero: ir.Value | None, axis: int) -> ir.Value:
    """Return ``value`` minus its zero point as float32; one for all, or one along an axis."""
    if value.dtype == T.INT8 and (zero is None or is_zero(zero)) and build.opset >= 13:
        return build.op("DequantizeLinear", value, np.float32(1), np.zeros((), np.int8))
    wide = build.op("Cast", value, to=T.INT32.value)
    if zero is not None and not is_zero(zero):
        wide_zero = build.op("Cast", zero, to=T.INT32.value)
        wide = build.op("Sub", wide, _shaped(build, wide_zero, rank(value) or 0, axis))
    return build.cast(wide, T.FLOAT)


def _shaped(build: Builder, value: ir.Value, axes: int, axis: int) -> ir.Value:
    """Let a one-dimensional ``value`` run along ``axis`` of a tensor with ``axes`` dimensions."""
    if rank(value) != 1 or static_shape(value) == (1,):
        return value
    return build.unsqueeze(value, _others(axes, axis))


def _others(axes: int, axis: int) -> list[int]:
    return [each for each in range(axes) if each != axis % axes]


def _row_axis(value: ir.Value) -> int:
    return -2 if (rank(value) or 0) > 1 else -1


def _parts(node: ir.Node, a: ir.Value, b: ir.Value) -> int | Refusal:
    """Return into how many parts the second operand falls so that float32 rounds no sum."""
    shape = static_shape(b)
    if "Conv" in node.op_type:
        terms = None if shape is None else int(np.prod(shape[1:]))
    else:
        terms = _inner(a, b)
    if terms is None:
        return Refusal("the number of products that it adds is not known")
    if terms * 255 * 255 <= _EXACT or a.dtype == b.dtype == T.INT8:
        return 1  # TensorRT adds products of int8 in int32
    if terms * 255 * 16 <= _EXACT:
        return 2
    return Refusal(f"it adds {terms} products of 9-bit integers, which float32 may round")


def _product(
    node: ir.Node, left: ir.Value, right: ir.Value, parts: int, build: Builder
) -> ir.Value:
    """Return the product as float32 in one part, or as int32 added up from two."""
    op = "Conv" if "Conv" in node.op_type else "MatMul"
    attributes = {key: each.value for key, each in node.attributes.items()} if op == "Conv" else {}
    if parts == 1:
        return build.op(op, left, right, **attributes)
    high = build.op("Floor", build.op("Mul", right, 1 / 16))
    low = build.op("Sub", right, build.op("Mul", high, 16.0))
    many, few = (
        build.cast(build.op(op, left, part, **attributes), T.INT32) for part in (high, low)
    )
    return build.op("Add", build.op("Mul", many, 16), few)


def _inner(a: ir.Value, b: ir.Value) -> int | None:
    candidates = (
        (a.shape[-1] if a.shape is not None and len(a.shape) else None),
        (b.shape[-2] if b.shape is not None and len(b.shape) > 1 else None),
    )
    return next((dim for dim in candidates if isinstance(dim, int)), None)
