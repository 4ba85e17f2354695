"""Element types that TensorRT does not compute in, and how to compute in others instead.

An integer type is computed in a wider one and wrapped where a result may leave its range. uint64 is
computed in int64 with the same bits. A float of 8 or fewer bits is computed in float32, rounded to
the values that it has; float8e8m0, which has powers of two only, included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.float_bits import bits_of_float

if TYPE_CHECKING:
    from trtforge_plugins.convert.builder import Builder

T = ir.DataType

INTERFACE = frozenset({
    T.BOOL, T.FLOAT, T.FLOAT16, T.BFLOAT16, T.DOUBLE, T.INT8, T.UINT8, T.INT32, T.INT64,
    T.FLOAT8E4M3FN,
})  # fmt: skip
"""Types that an input or output of a TensorRT network may have."""


@dataclass(frozen=True)
class Grid:
    """The values of a narrow float type (https://onnx.ai/onnx/technical/float8.html)."""

    mantissa: int
    """Explicit bits."""
    least: int
    """Exponent of the smallest normal number."""
    largest: float
    """Largest finite value."""
    has_infinity: bool = False
    has_nan: bool = True


GRIDS: Mapping[ir.DataType, Grid] = MappingProxyType({
    T.FLOAT8E4M3FN: Grid(3, -6, 448.0),
    T.FLOAT8E4M3FNUZ: Grid(3, -7, 240.0),
    T.FLOAT8E5M2: Grid(2, -14, 57344.0, has_infinity=True),
    T.FLOAT8E5M2FNUZ: Grid(2, -15, 57344.0),
    T.FLOAT4E2M1: Grid(1, 0, 6.0, has_nan=False),
})  # fmt: skip

INTEGERS: Mapping[ir.DataType, tuple[int, int]] = MappingProxyType({
    T.INT2: (-2, 1), T.UINT2: (0, 3), T.INT4: (-8, 7), T.UINT4: (0, 15),
    T.INT8: (-128, 127), T.UINT8: (0, 255), T.INT16: (-(2**15), 2**15 - 1),
    T.UINT16: (0, 2**16 - 1), T.INT32: (-(2**31), 2**31 - 1), T.UINT32: (0, 2**32 - 1),
    T.INT64: (-(2**63), 2**63 - 1), T.UINT64: (0, 2**64 - 1),
})  # fmt: skip
"""Smallest and largest value of each integer type."""

COMPUTING: Mapping[ir.DataType, ir.DataType] = MappingProxyType({
    **dict.fromkeys((T.INT2, T.UINT2, T.INT4, T.UINT4, T.INT8, T.UINT8, T.INT16, T.UINT16),
                    T.INT32),
    T.UINT32: T.INT64,
    T.UINT64: T.INT64,
    **dict.fromkeys((*GRIDS, T.FLOAT8E8M0), T.FLOAT),
})  # fmt: skip
"""The type to compute in, which holds every value (uint64: every bit pattern)."""


_POWERS_OF_8_BITS = np.append(np.ldexp(np.float32(1), np.arange(-127, 128)), np.float32(np.nan))
"""The values of float8e8m0 by their bits."""
IN_RANGE_KEY = "trtforge.in_range"
"""Metadata key of a Cast whose input is known to hold values of its target type only."""


def exact_cast(build: Builder, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Return ``value``, which holds values of ``dtype`` only, as ``dtype``."""
    if value.dtype == dtype:
        return value
    made = build.op("Cast", value, to=dtype.value)
    build.nodes[-1].metadata_props[IN_RANGE_KEY] = "yes"
    return made


def narrowed(build: Builder, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Return integers of a computing type brought into the range of ``dtype``, as a Cast does.

    Higher bits are dropped (https://onnx.ai/onnx/operators/onnx__Cast.html).
    """
    low, high = INTEGERS[dtype]
    if dtype == T.UINT64:
        return value
    count = high - low + 1
    if low == 0:
        return build.op("Mod", value, count)
    return build.op("Add", build.op("Mod", build.op("Sub", value, low), count), low)


def round_even(build: Builder, value: ir.Value) -> ir.Value:
    """Return floats rounded to integers, ties to even; ONNX has Round since opset 11."""
    if build.opset >= 11:
        return build.op("Round", value)
    down = build.op("Floor", value)
    rest = build.op("Sub", value, down)
    odd = build.op("Sub", down, build.op("Mul", build.op("Floor", build.op("Mul", down, 0.5)), 2.0))
    # An odd number goes up from one half on, an even one only beyond it.
    from_half = build.op(
        "Not", build.op("Less", rest, build.op("Sub", 1.0, build.op("Mul", odd, 0.5)))
    )
    up = build.op("Or", build.op("Greater", rest, 0.5), from_half)
    return build.op("Where", up, build.op("Add", down, 1.0), down)


def rounded(
    build: Builder, value: ir.Value, dtype: ir.DataType, *, saturate: bool = True
) -> ir.Value:
    """Return float32 ``value`` rounded to the values of a narrow float type, ties to even.

    What lies beyond the largest value becomes it, or with ``saturate`` off infinity or NaN, as
    https://onnx.ai/onnx/operators/onnx__Cast.html has it.
    """
    grid = GRIDS[dtype]
    nan = build.op("IsNaN", value)
    known = build.op("Where", nan, np.float32(0), value)  # where there is no NaN, zero is for it
    # Far beyond the largest value all rounds alike; the bound keeps powers of two in the table.
    known = build.op("Max", build.op("Min", known, 2 * grid.largest), -2 * grid.largest)
    size = build.op("Abs", known)
    unit = build.op("Mul", _power_of_two(build, size, grid), 2.0**-grid.mantissa)
    near = build.op("Mul", round_even(build, build.op("Div", known, unit)), unit)
    bounded = build.op("Max", build.op("Min", near, grid.largest), -grid.largest)
    if not saturate and grid.has_nan:
        over = build.op("Greater", build.op("Abs", near), grid.largest)
        beyond = build.op("Mul", near, np.float32(np.inf if grid.has_infinity else np.nan))
        bounded = build.op("Where", over, beyond, bounded)
    return build.op("Where", nan, value, bounded) if grid.has_nan else bounded


def rounded_to_power(
    build: Builder, value: ir.Value, mode: str, *, saturate: bool = True
) -> ir.Value:
    """Return float32 ``value`` rounded to the values of float8e8m0: powers of two and NaN.

    The sign is dropped and infinity becomes NaN (https://onnx.ai/onnx/technical/float8.html); ties
    of mode ``nearest`` go up, but to the smallest value down, as in ``to_float8e8m0`` of ONNX's
    reference implementation.
    """
    bits = bits_of_float(build, build.op("Abs", value))
    field = build.op("Div", bits, 2**23)
    fraction = build.op("Sub", bits, build.op("Mul", field, 2**23))
    if mode == "down":
        index = field
    else:
        goes_up = build.op("Greater", fraction, 0)
        if mode == "nearest":
            tie = build.op("Equal", fraction, 2**22)
            least = build.op("Equal", field, 0)
            beyond = build.op("Greater", fraction, 2**22)
            goes_up = build.op("Or", beyond, build.op("And", tie, build.op("Not", least)))
        limit = 0xFE if saturate else 0xFF
        known = build.op("Less", field, limit)
        index = build.op("Add", field, build.cast(build.op("And", goes_up, known), T.INT32))
    return build.op("Gather", _POWERS_OF_8_BITS, index)


def _power_of_two(build: Builder, size: ir.Value, grid: Grid) -> ir.Value:
    """Return the largest power of two that is no larger than ``size``, at least the least one.

    The logarithm may be off by one unit near a power of two, so it only chooses from a table, and
    comparisons with the exact number put it right.
    """
    powers = np.ldexp(np.float32(1), np.arange(grid.least, 18)).astype(np.float32)
    size = build.op("Max", size, float(powers[0]))
    exponent = build.op("Floor", build.op("Mul", build.op("Log", size), float(1 / np.log(2))))
    index = build.op("Cast", build.op("Sub", exponent, float(grid.least)), to=T.INT32.value)
    index = build.op("Max", build.op("Min", index, len(powers) - 1), 0)
    power = build.op("Gather", powers, index)
    power = build.op("Where", build.op("Less", size, power), build.op("Mul", power, 0.5), power)
    double = build.op("Mul", power, 2.0)
    return build.op("Where", build.op("Less", size, double), power, double)
