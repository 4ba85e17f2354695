"""How one node that uses a type without arithmetic in TensorRT is computed in another type."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.number_types import (
    COMPUTING,
    GRIDS,
    INTEGERS,
    exact_cast,
    narrowed,
    rounded,
    rounded_to_power,
)

T = ir.DataType

_KEEPS_RANGE = frozenset({
    "ArgMax", "ArgMin", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Clip", "Concat", "DepthToSpace",
    "Equal", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Greater",
    "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Pad", "ReduceMax",
    "ReduceMin", "Reshape", "ReverseSequence", "ScatterElements", "ScatterND", "Shape", "Sign",
    "Size", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Trilu",
    "Unsqueeze", "Where",
})  # fmt: skip
"""Operators whose results lie in the range of their inputs."""
_WRAPS = frozenset({
    "Abs", "Add", "BitwiseNot", "CumProd", "CumSum", "Div", "MatMul", "Mul", "Neg", "ReduceL1",
    "ReduceProd", "ReduceSum", "ReduceSumSquare", "Sub", "Sum",
})  # fmt: skip
"""Operators whose results drop the bits that the type has no room for."""
_ORDERS = frozenset({
    "ArgMax", "ArgMin", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min",
    "ReduceMax", "ReduceMin", "TopK", "Clip",
})  # fmt: skip
"""Operators that compare: the bits of a uint64 in an int64 need their order."""
_MOVES = _KEEPS_RANGE - _ORDERS - {"Mod", "Sign"}
"""Operators that neither compare nor divide: they work on a uint64's bits in an int64."""
INT8_LACKS = frozenset({"Clip", "CumProd", "CumSum", "MatMul", "MaxPool", "Mod", "Pow"})
"""Operators that TensorRT has, but not for int8."""
_LOWEST = np.int64(-(2**63))


def widened(node: ir.Node, build: Builder) -> list[ir.Value] | str:
    """Return the results of ``node`` computed in other types, or the reason why it cannot be."""
    kinds = {v.dtype for v in (*node.inputs, *node.outputs) if v is not None and v.dtype}
    lacking = kinds & set(COMPUTING)
    op = node.op_type
    if op == "Cast":
        return _cast(node, build)
    if op == "Pow":
        return _pow(node, build)
    if op == "MaxPool":
        return _max_pool(node, build)
    if T.UINT64 in kinds and op in ("Div", "Mod"):
        return _divide_bits(node, build)
    if T.UINT64 in kinds and op == "BitShift":
        return _shift_bits(node, build)
    if op not in _KEEPS_RANGE | _WRAPS:
        return f"{op} is not computed in another type than {_names(lacking)}"
    if lacking & {*GRIDS, T.FLOAT8E8M0} and op not in _MOVES:
        return f"{op} of {_names(lacking)} has no defined rounding"
    return _computed(node, build)


def _names(types: set[ir.DataType]) -> str:
    return ", ".join(sorted(each.name.lower() for each in types))


def _computed(node: ir.Node, build: Builder) -> list[ir.Value]:
    ordered = node.op_type in _ORDERS
    inputs = [_wide(build, value, ordered=ordered) for value in node.inputs]
    made = build.ops(node.op_type, len(node.outputs), *inputs, **_plain_attributes(node))
    return [
        _back(build, value, old.dtype, wraps=node.op_type in _WRAPS, ordered=ordered)
        for value, old in zip(made, node.outputs, strict=True)
    ]


def _plain_attributes(node: ir.Node) -> dict[str, object]:
    return {name: attribute.value for name, attribute in node.attributes.items()}


def _wide(build: Builder, value: ir.Value | None, *, ordered: bool = False) -> ir.Value | None:
    if value is None or value.dtype is None or value.dtype not in COMPUTING:
        return value
    dtype = value.dtype
    wide = build.cast(value, COMPUTING[dtype])
    return build.op("Add", wide, _LOWEST) if ordered and dtype == T.UINT64 else wide


def _back(
    build: Builder, value: ir.Value, dtype: ir.DataType | None, *, wraps: bool, ordered: bool
) -> ir.Value:
    """Return a computed result as its own type, wrapped where it may have left the range."""
    if dtype is None or dtype not in COMPUTING:
        return value
    if ordered and dtype == T.UINT64:
        value = build.op("Add", value, _LOWEST)
    if wraps and dtype in INTEGERS:
        value = narrowed(build, value, dtype)
    return exact_cast(build, value, dtype)


def _cast(node: ir.Node, build: Builder) -> list[ir.Value] | str:
    source, target = node.inputs[0], node.outputs[0].dtype
    if source is None or source.dtype is None or target is None:
        return "its types are not known"
    value = _number(build, source)
    if source.dtype == T.UINT64 and target not in INTEGERS and target != T.BOOL:
        value = _unsigned_float(build, value)
    if target == T.FLOAT8E8M0:
        mode = node.attributes.get_string("round_mode", "up") or "up"
        saturate = bool(node.attributes.get_int("saturate", 1))
        value = rounded_to_power(build, build.cast(value, T.FLOAT), mode, saturate=saturate)
        return [exact_cast(build, value, target)]
    if target in GRIDS:
        saturate = bool(node.attributes.get_int("saturate", 1))
        value = rounded(build, build.cast(value, T.FLOAT), target, saturate=saturate)
        return [exact_cast(build, value, target)]
    if target == T.UINT64 and not _is_integer(value.dtype):
        return [exact_cast(build, _float_to_bits(build, build.cast(value, T.FLOAT)), target)]
    if target in COMPUTING:
        if not _is_integer(value.dtype):
            value = build.cast(value, T.INT32 if COMPUTING[target] == T.INT32 else T.INT64)
        if not _holds(target, source.dtype):
            value = narrowed(build, value, target)
        value = build.cast(value, COMPUTING[target])
        return [exact_cast(build, value, target)]
    return [build.cast(value, target)]


def _is_integer(dtype: ir.DataType | None) -> bool:
    return dtype in INTEGERS


def _holds(target: ir.DataType, source: ir.DataType) -> bool:
    """Whether every value of ``source`` is one of ``target``."""
    if source == T.BOOL:
        return True
    if source not in INTEGERS:
        return False
    (low, high), (least, most) = INTEGERS[target], INTEGERS[source]
    return low <= least and most <= high


def _number(build: Builder, source: ir.Value) -> ir.Value:
    """Return ``source`` in a type that TensorRT casts from; uint64 as int64 bits or float32."""
    wide = _wide(build, source)
    assert wide is not None  # noqa: S101  # source is a value
    return wide


def _unsigned_float(build: Builder, bits: ir.Value) -> ir.Value:
    """Return the uint64 whose bits an int64 holds as float32, rounded once.

    The lowest bit of a large number is kept when it is halved (or-ed into the next), so that the
    rounding of the half is that of the number.
    """
    half = build.op("Add", _half(build, bits), 0)
    odd = build.op("Sub", bits, build.op("Mul", half, 2))
    even = build.op("Equal", build.op("Mod", half, 2), 0)
    sticky = build.op("Where", even, build.op("Add", half, odd), half)
    large = build.op("Mul", build.cast(sticky, T.FLOAT), 2.0)
    return build.op("Where", build.op("Less", bits, 0), large, build.cast(bits, T.FLOAT))


def _half(build: Builder, bits: ir.Value) -> ir.Value:
    """Return the uint64 in ``bits`` divided by two, rounded down: it fits an int64."""
    low = build.op("Mod", bits, 2)
    down = build.op("Div", build.op("Sub", bits, low), 2)  # exact, so the rounding is no matter
    return build.op("Where", build.op("Less", bits, 0), build.op("Sub", down, _LOWEST), down)


def _float_to_bits(build: Builder, value: ir.Value) -> ir.Value:
    limit = float(2**63)
    large = build.op("GreaterOrEqual", value, limit)
    rest = build.op("Where", large, build.op("Sub", value, limit), value)
    bits = build.cast(rest, T.INT64)
    return build.op("Where", large, build.op("Add", bits, _LOWEST), bits)


def _divide_bits(node: ir.Node, build: Builder) -> list[ir.Value]:
    """Divide uint64 as int64 bits: from half the dividend, then put right by one.

    Source: H. S. Warren, Hacker's Delight, 2nd edition, section 9-3.
    """
    first, second = (_number(build, value) for value in node.inputs if value is not None)
    huge = build.op("Less", second, 0)  # the divisor is 2**63 or more: the quotient is 0 or 1
    safe = build.op("Where", huge, np.int64(1), second)
    quotient = build.op("Mul", build.op("Div", _half(build, first), safe), 2)
    rest = build.op("Sub", first, build.op("Mul", quotient, second))
    quotient = build.op("Add", quotient, _at_least(build, rest, second))
    quotient = build.op("Where", huge, _at_least(build, first, second), quotient)
    if node.op_type == "Mod":
        quotient = build.op("Sub", first, build.op("Mul", quotient, second))
    return [exact_cast(build, quotient, T.UINT64)]


def _shift_bits(node: ir.Node, build: Builder) -> list[ir.Value] | str:
    """Shift a uint64 to the right: the first bit by halving, the others by a power of two."""
    if node.attributes.get_string("direction", "") != "RIGHT":
        return "the bits of a left shift are for another rule"
    first, second = (_number(build, value) for value in node.inputs if value is not None)
    powers = np.left_shift(np.int64(1), np.arange(63))
    index = build.op("Max", build.op("Min", build.op("Sub", second, 1), 62), 0)
    shifted = build.op("Div", _half(build, first), build.op("Gather", powers, index))
    shifted = build.op("Where", build.op("Greater", second, 63), np.int64(0), shifted)
    shifted = build.op("Where", build.op("Equal", second, 0), first, shifted)
    return [exact_cast(build, shifted, T.UINT64)]


def _at_least(build: Builder, first: ir.Value, second: ir.Value) -> ir.Value:
    ordered = (build.op("Add", value, _LOWEST) for value in (first, second))
    return build.cast(build.op("GreaterOrEqual", *ordered), T.INT64)


def _pow(node: ir.Node, build: Builder) -> list[ir.Value] | str:
    base, exponent = node.inputs
    if base is None or exponent is None or base.dtype in COMPUTING or base.dtype is None:
        return "Pow of an integer base is not computed in another type"
    number = _number(build, exponent)
    if exponent.dtype == T.UINT64:
        number = _unsigned_float(build, number)
    return [build.op("Pow", base, build.cast(number, base.dtype))]


def _max_pool(node: ir.Node, build: Builder) -> list[ir.Value]:
    source = node.inputs[0]
    assert source is not None and source.dtype is not None  # noqa: S101, PT018  # 8-bit by schema
    wide = build.cast(_number(build, source), T.FLOAT)
    made = build.ops("MaxPool", len(node.outputs), wide, **_plain_attributes(node))
    whole = exact_cast(build, build.cast(made[0], T.INT32), source.dtype)
    return [whole, *made[1:]]
