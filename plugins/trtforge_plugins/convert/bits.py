"""Bit operators by the arithmetic of integers, which TensorRT has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.facts import attribute
from trtforge_plugins.convert.rule import Refusal, Rule

_TYPE = ir.DataType
_COMPUTING = {
    _TYPE.INT8: _TYPE.INT32,
    _TYPE.INT16: _TYPE.INT32,
    _TYPE.INT32: _TYPE.INT32,
    _TYPE.INT64: _TYPE.INT64,
    _TYPE.UINT8: _TYPE.INT32,
    _TYPE.UINT16: _TYPE.INT32,
    _TYPE.UINT32: _TYPE.INT64,
    _TYPE.UINT64: _TYPE.INT64,
}
"""The signed type that holds every value; for uint64 the one that holds its bits."""
_CONCERN = "TensorRT-RTX 1.7, TensorRT 10 and 11: no such operator"
_OPERATIONS: Mapping[str, np.ufunc] = {
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
}
_GROUP = 8
"""Digits that are added up at once: 32 bits, which float64 holds."""
_DIGIT = 16
"""Numbers are compared bit by bit within digits to this base."""


class BitwiseLogic(Rule):
    """Write a bitwise operation with one table of hexadecimal digits.

    Sign and digits of both numbers are taken apart, the table is read once per digit, and the
    digits are put together again. The digits need 8 (int32) or 16 (int64) times the memory of an
    input while they exist.
    """

    name: ClassVar[str] = "bitwise-logic"
    ops: ClassVar[tuple[str, ...]] = ("BitwiseAnd", "BitwiseOr", "BitwiseXor")
    concerns: ClassVar[str] = _CONCERN
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__BitwiseAnd.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Compute digit by digit."""
        first, second = node.inputs
        if first is None or second is None or first.dtype not in _COMPUTING:
            return Refusal("the type of its inputs is not known")
        computing = _COMPUTING[first.dtype]
        lowest = int(np.iinfo(computing.numpy()).min)
        places = [_DIGIT**i for i in range(computing.bitwidth // 4)]
        columns = np.asarray(places, computing.numpy()).reshape(-1, _GROUP)
        (low, digits), (low_2, digits_2) = (
            self._apart(build.cast(value, computing), lowest, columns, build)
            for value in (first, second)
        )
        operation = _OPERATIONS[node.op_type]
        found = self._looked_up(operation, _DIGIT, digits, digits_2, build)
        joined = self._joined(found, columns, build)
        negative = build.cast(self._looked_up(operation, 2, low, low_2, build), _TYPE.BOOL)
        result = build.op("Where", negative, build.op("Add", joined, lowest), joined)
        return [build.cast(result, first.dtype)]

    def _apart(
        self, value: ir.Value, lowest: int, columns: np.ndarray, build: Builder
    ) -> tuple[ir.Value, ir.Value]:
        """Return the sign bit, and the digits of the rest along two new axes."""
        negative = build.op("Less", value, 0)
        # Subtracting the lowest number clears the sign bit and leaves the other bits as they are.
        rest = build.op("Where", negative, build.op("Sub", value, lowest), value)
        digits = build.op("Mod", build.op("Div", build.unsqueeze(rest, [-2, -1]), columns), _DIGIT)
        return build.cast(negative, value.dtype or _TYPE.INT32), digits

    def _joined(self, digits: ir.Value, columns: np.ndarray, build: Builder) -> ir.Value:
        """Put digits together, a group at a time: ONNX Runtime adds integers up in float64."""
        weighed = build.op("Mul", digits, columns[0])
        groups = build.reduce("ReduceSum", weighed, [-1], keepdims=False)
        joined = build.op("Gather", groups, np.int64(0), axis=-1)
        for index in range(1, len(columns)):
            higher = build.op("Gather", groups, np.int64(index), axis=-1)
            joined = build.op("Add", joined, build.op("Mul", higher, int(columns[index][0])))
        return joined

    def _looked_up(
        self, operation: np.ufunc, base: int, left: ir.Value, right: ir.Value, build: Builder
    ) -> ir.Value:
        """Return ``operation`` of two digits, from a table of all pairs."""
        table = operation.outer(np.arange(base), np.arange(base)).reshape(-1)
        index = build.op("Add", build.op("Mul", left, base), right)
        return build.op("Gather", build.const(table, left.dtype), index)


class BitwiseNot(Rule):
    """Write the complement as a subtraction: from -1, or from the largest unsigned number."""

    name: ClassVar[str] = "bitwise-not"
    ops: ClassVar[tuple[str, ...]] = ("BitwiseNot",)
    concerns: ClassVar[str] = _CONCERN
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__BitwiseNot.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Subtract."""
        value = node.inputs[0]
        if value is None or value.dtype not in _COMPUTING:
            return Refusal("the type of its input is not known")
        dtype = value.dtype
        unsigned = dtype.name.startswith("U") and dtype != _TYPE.UINT64
        top = build.const(np.iinfo(dtype.numpy()).max if unsigned else -1, _COMPUTING[dtype])
        return [build.cast(build.op("Sub", top, build.cast(value, _COMPUTING[dtype])), dtype)]


class BitShift(Rule):
    """Write a shift as a multiplication or a division by a power of two from a table.

    As in ONNX, bits that leave the type are dropped, a right shift of a negative number rounds
    down, and a shift by the width or more, or by a negative number, leaves no bit of the number.
    """

    name: ClassVar[str] = "bit-shift"
    ops: ClassVar[tuple[str, ...]] = ("BitShift",)
    concerns: ClassVar[str] = _CONCERN
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__BitShift.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Shift by arithmetic."""
        value, by = node.inputs[0], node.inputs[1]
        if value is None or by is None or value.dtype not in _COMPUTING:
            return Refusal("the type of its inputs is not known")
        right = attribute(node, "direction") == "RIGHT"
        if right and value.dtype == _TYPE.UINT64:
            return Refusal("TensorRT has no type that orders 64-bit unsigned numbers")
        width = value.dtype.bitwidth
        number, shift = build.cast(value, _TYPE.INT64), build.cast(by, _TYPE.INT64)
        outside = build.op("Or", build.op("Less", shift, 0), build.op("Greater", shift, width - 1))
        # 2**63 wraps to the lowest number: a product with it wraps as the shift does, and a number
        # that is not negative, divided by it, is 0 as it should be.
        table = build.const(np.left_shift(np.int64(1), np.arange(width)))
        power = build.op("Gather", table, build.op("Where", outside, 0, shift))
        if right:
            result = self._right(number, power, outside, build)
        else:
            result = self._left(number, power, outside, value.dtype, build)
        return [build.cast(result, value.dtype)]

    def _right(
        self, number: ir.Value, power: ir.Value, outside: ir.Value, build: Builder
    ) -> ir.Value:
        below = build.op("Less", number, 0)
        complement = build.op("Sub", -1, number)
        quotient = build.op("Div", build.op("Where", below, complement, number), power)
        kept = build.op("Where", outside, 0, quotient)
        return build.op("Where", below, build.op("Sub", -1, kept), kept)

    def _left(
        self,
        number: ir.Value,
        power: ir.Value,
        outside: ir.Value,
        dtype: ir.DataType,
        build: Builder,
    ) -> ir.Value:
        product = build.op("Where", outside, 0, build.op("Mul", number, power))
        if dtype.bitwidth == 64:
            return product
        span = 2**dtype.bitwidth
        kept = build.op("Mod", product, span)
        if dtype.name.startswith("U"):
            return kept
        wrapped = build.op("Sub", kept, span)
        return build.op("Where", build.op("Less", kept, span // 2), kept, wrapped)
