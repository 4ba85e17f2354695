"""The bits of float32 numbers as int32 and back, by arithmetic (IEEE 754, binary32)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from trtforge_plugins.convert.builder import Builder

_INT32, _FLOAT = ir.DataType.INT32, ir.DataType.FLOAT
_LOWEST = -(2**31)  # the sign bit alone
_FRACTION = 2**23  # values of the fraction's 23 bits
_POWERS = np.ldexp(np.float32(1), np.arange(-126, 128)).astype(np.float32)
"""Powers of two that are normal numbers, by exponent field less one."""
_LARGEST = float(np.finfo(np.float32).max)
_INFINITY, _NAN = 0x7F800000, 0x7FC00000


def bits_of_float(build: Builder, value: ir.Value) -> ir.Value:
    """Return the bits of float32 ``value`` as int32. Each NaN becomes the quiet one, 0x7fc00000."""
    size = build.op("Abs", value)
    infinite = build.op("Greater", size, _LARGEST)
    odd = build.op("Or", infinite, build.op("IsNaN", value))
    known = build.op("Where", odd, 0.0, size)
    normal = build.op("GreaterOrEqual", known, float(_POWERS[0]))
    index = _exponent(build, known)
    ratio = build.op("Div", known, build.op("Gather", _POWERS, index))
    # Below the normal numbers the field is 0, and the fraction lacks its leading one.
    field = build.op("Where", normal, build.op("Add", index, 1), 0)
    fraction = build.op("Where", normal, build.op("Sub", ratio, 1.0), ratio)
    fraction = build.cast(build.op("Mul", fraction, float(_FRACTION)), _INT32)
    bits = build.op("Add", build.op("Mul", field, _FRACTION), fraction)
    special = build.op("Where", infinite, build.const(_INFINITY, _INT32), np.int32(_NAN))
    bits = build.op("Where", odd, special, bits)
    # A negative zero is told by its reciprocal.
    sided = build.op("Where", build.op("Equal", value, 0.0), build.op("Reciprocal", value), value)
    return build.op("Where", build.op("Less", sided, 0.0), build.op("Add", bits, _LOWEST), bits)


def _exponent(build: Builder, size: ir.Value) -> ir.Value:
    """Return the index of the largest power of two up to ``size``, 0 where there is none.

    The logarithm may be off by one near a power of two; comparisons put it right.
    """
    logarithm = build.op("Log", build.op("Max", size, float(_POWERS[0])))
    guess = build.op("Floor", build.op("Mul", logarithm, float(1 / np.log(2))))
    index = build.op("Add", build.cast(guess, _INT32), 126)
    index = build.op("Max", build.op("Min", index, len(_POWERS) - 1), 0)
    above = build.op("Less", size, build.op("Gather", _POWERS, index))
    index = build.op("Max", build.op("Where", above, build.op("Sub", index, 1), index), 0)
    following = build.op("Min", build.op("Add", index, 1), len(_POWERS) - 1)
    reached = build.op("GreaterOrEqual", size, build.op("Gather", _POWERS, following))
    return build.op("Where", reached, following, index)


def float_of_bits(build: Builder, bits: ir.Value) -> ir.Value:
    """Return the float32 numbers whose bits are the int32 ``bits``."""
    negative = build.op("Less", bits, 0)
    rest = build.op("Where", negative, build.op("Sub", bits, _LOWEST), bits)
    field = build.op("Div", rest, _FRACTION)
    fraction = build.op("Sub", rest, build.op("Mul", field, _FRACTION))
    part = build.op("Mul", build.cast(fraction, _FLOAT), 1 / _FRACTION)
    lead = build.op("Where", build.op("Equal", field, 0), build.const(0.0, _FLOAT), 1.0)
    table = np.concatenate([_POWERS[:1], _POWERS, [np.float32(np.inf)]]).astype(np.float32)
    size = build.op("Mul", build.op("Add", lead, part), build.op("Gather", table, field))
    odd = build.op("Greater", rest, _INFINITY)
    size = build.op("Where", odd, build.const(np.nan, _FLOAT), size)
    # A product keeps the sign of zero; ONNX Runtime's Where does not.
    return build.op("Mul", size, build.op("Where", negative, build.const(-1.0, _FLOAT), 1.0))
