"""Arithmetic that TensorRT lacks or takes for some types only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge.graph import scalar
from trtforge_plugins.convert.builder import Builder, rank
from trtforge_plugins.convert.choice import chosen, from_front
from trtforge_plugins.convert.facts import attribute, declared_size, operand
from trtforge_plugins.convert.rule import Refusal, Rule

_NO_OPERATOR = "TensorRT-RTX 1.7, TensorRT 10 and 11: no such operator"
MAX_ORDER = 16
"""Rows of a determinant; each is a step of the elimination."""


class FloorMod(Rule):
    """Write the floating-point Mod that takes the divisor's sign by the one that takes the other.

    A remainder of the wrong sign gets the divisor added.
    """

    name: ClassVar[str] = "floor-mod"
    ops: ClassVar[tuple[str, ...]] = ("Mod",)
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7, TensorRT 10 and 11: The fmod attribute is set to 0. Inputs cannot be of "
        "floating point types"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__Mod.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Take the remainder by fmod and correct its sign."""
        value, divisor = node.inputs[:2]
        if value is None or divisor is None or value.dtype is None:
            return Refusal("the type of its inputs is not known")
        if attribute(node, "fmod", 0) or not value.dtype.is_floating_point():
            return None
        rest = build.op("Mod", value, divisor, fmod=1)
        differ = build.op("Xor", build.op("Less", rest, 0), build.op("Less", divisor, 0))
        wrong = build.op("And", differ, build.op("Not", build.op("Equal", rest, 0)))
        return [build.op("Where", wrong, build.op("Add", rest, divisor), rest)]


class HalfCelu(Rule):
    """Write Celu of half precision by Elu, as ONNX's function body does."""

    name: ClassVar[str] = "half-celu"
    ops: ClassVar[tuple[str, ...]] = ("Celu",)
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7: The rank of operands should be the same (Celu of float16 and bfloat16)"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__Celu.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Scale, Elu, scale back."""
        value = node.inputs[0]
        if value is None or value.dtype in (None, ir.DataType.FLOAT, ir.DataType.DOUBLE):
            return None
        alpha = float(attribute(node, "alpha", 1.0))
        return [build.op("Mul", build.op("Elu", build.op("Div", value, alpha), alpha=1.0), alpha)]


class VectorMatMul(Rule):
    """Write the product of a vector and a stack of matrices with a row in place of the vector."""

    name: ClassVar[str] = "vector-matmul"
    ops: ClassVar[tuple[str, ...]] = ("MatMul",)
    concerns: ClassVar[str] = "TensorRT-RTX 1.7: reshape changes volume (1-D times 3-D and up)"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__MatMul.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Multiply a row."""
        left, right = node.inputs[:2]
        dims = rank(right)
        if left is None or right is None or rank(left) != 1 or dims is None or dims < 3:
            return None
        product = build.op("MatMul", build.unsqueeze(left, [0]), right)
        return [build.squeeze(product, [dims - 2])]


class CumProd(Rule):
    """Write a running product as products with shifted copies, twice as far in each step.

    W. D. Hillis and G. L. Steele, "Data parallel algorithms", Communications of the ACM 29 (1986).
    """

    name: ClassVar[str] = "cum-prod"
    ops: ClassVar[tuple[str, ...]] = ("CumProd",)
    concerns: ClassVar[str] = _NO_OPERATOR
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__CumProd.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Multiply; where the axis is a run-time value, along each axis, and choose."""
        value, axis = operand(node, 0), operand(node, 1)
        dims = rank(value)
        if value is None or axis is None or not dims:
            return Refusal("the rank of its input is not known")
        known = scalar(axis)
        axes = range(dims) if known is None else [int(known) % dims]
        if any(declared_size(value, each) is None for each in axes):
            return Refusal("the number of steps follows from a size that is open")
        results = [self._along(value, each, node, build) for each in axes]
        if len(results) == 1:
            return results
        keys = [[each] for each in axes]
        return [chosen(results, keys, from_front(axis, dims, build), build)]

    def _along(self, value: ir.Value, axis: int, node: ir.Node, build: Builder) -> ir.Value:
        size = declared_size(value, axis) or 0
        back = bool(attribute(node, "reverse", 0))
        if attribute(node, "exclusive", 0):
            value = self._shifted(value, axis, -1 if back else 1, build)
        step = 1
        while step < size:
            shifted = self._shifted(value, axis, -step if back else step, build)
            value = build.op("Mul", value, shifted)
            step *= 2
        return value

    def _shifted(self, value: ir.Value, axis: int, by: int, build: Builder) -> ir.Value:
        """Move the entries by ``by`` places; ones come in."""
        dims, size = rank(value) or 0, declared_size(value, axis) or 0
        pads = [0] * 2 * dims
        if by > 0:
            kept, pads[axis] = build.slice(value, axis, 0, size - by), by
        else:
            kept, pads[dims + axis] = build.slice(value, axis, -by, size), -by
        return build.op("Pad", kept, pads, 1)


class Det(Rule):
    """Write a determinant as Gaussian elimination with row pivots, one step per row."""

    name: ClassVar[str] = "det"
    ops: ClassVar[tuple[str, ...]] = ("Det",)
    concerns: ClassVar[str] = _NO_OPERATOR
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__Det.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Multiply the pivots."""
        matrix = node.inputs[0]
        order = declared_size(matrix, -1)
        if matrix is None or matrix.dtype is None or matrix.shape is None or order is None:
            return Refusal("the order of its matrix is open")
        if order > MAX_ORDER:
            return Refusal(f"it has more than {MAX_ORDER} rows")
        dims, dtype = len(matrix.shape), matrix.dtype
        half = dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
        rest = build.cast(matrix, ir.DataType.FLOAT) if half else matrix
        factors = []
        for size in range(order, 1, -1):
            pivot, rest = self._eliminated(rest, size, dims, build)
            factors.append(pivot)
        result = build.squeeze(rest, [dims - 2, dims - 1])
        for factor in factors:
            result = build.op("Mul", result, factor)
        return [build.cast(result, dtype)]

    def _eliminated(
        self, matrix: ir.Value, size: int, dims: int, build: Builder
    ) -> tuple[ir.Value, ir.Value]:
        """Return the signed pivot of the first column, and the matrix without it and its row."""
        column = build.slice(matrix, dims - 1, 0, 1)
        place = build.op("ArgMax", build.op("Abs", column), axis=dims - 2, keepdims=1)
        chosen = build.op("Equal", place, np.arange(size)[:, None])
        row = build.reduce("ReduceSum", build.op("Where", chosen, matrix, 0), [dims - 2])
        # The first row goes where the pivot's row was.
        first = build.slice(matrix, dims - 2, 0, 1)
        others = build.slice(build.op("Where", chosen, first, matrix), dims - 2, 1, size)
        pivot = build.slice(row, dims - 1, 0, 1)
        # A pivot of 0 makes the determinant 0, whatever is divided.
        divisor = build.op("Where", build.op("Equal", pivot, 0), 1, pivot)
        factors = build.op("Div", build.slice(others, dims - 1, 0, 1), divisor)
        left = build.op("Sub", others, build.op("Mul", factors, row))
        moved = build.op("Greater", place, 0)
        signed = build.op("Where", moved, build.op("Neg", pivot), pivot)
        return build.squeeze(signed, [dims - 2, dims - 1]), build.slice(left, dims - 1, 1, size)
