"""What float16 and bfloat16 can hold: constants, and the scales of Q/DQ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from trtforge.artifacts import Array

LOST = 1e-3
"""Relative error (L2) that converting a tensor to float16 may make; plain rounding makes 3e-4."""

FLUSHED = 2.0**-25
"""Up to here float16 rounds to 0: half of its smallest number, 2^-24 (IEEE 754, ties to even)."""
DENORMAL = 2.0**-14
"""Below this float16 keeps fewer than 11 bits."""


def why_not(array: Array, low: ir.DataType) -> str | None:
    """Return why the float32 ``array`` does not survive in the type ``low``, or None if it does.

    Overflow counts for any entry. Underflow counts where it changes the tensor: by more than
    0.1 % of its L2 norm, so the few tiny entries of a trained weight may become zero.
    """
    finite = array[np.isfinite(array)] if not np.isfinite(array).all() else array
    if finite.size == 0:
        return None
    top = float(np.abs(finite).max())
    limit = largest(low)
    if top > limit:
        worst = float(finite.flat[np.abs(finite).argmax()])
        return f"{worst:g} is outside the range of {name(low)} (largest: {limit:g})"
    if low != ir.DataType.FLOAT16 or top == 0:  # bfloat16 has the exponents of float32
        return None
    unit = finite.astype(np.float32) / np.float32(top)  # keeps the squares in range
    error = unit - finite.astype(np.float16).astype(np.float32) / np.float32(top)
    if float(np.vdot(error, error)) <= LOST**2 * float(np.vdot(unit, unit)):
        return None
    if finite.size == 1:
        value = float(finite.flat[0])
        return f"{value:g} becomes {float(np.float16(value)):g} in float16"
    return f"its entries (largest: {top:g}) are too small for float16"


def underflow(array: Array) -> tuple[float, float]:
    """Return which shares of the float32 ``array`` become 0 and become denormal in float16.

    Zeros of the array count for neither.
    """
    magnitude = np.abs(array)
    lost = np.count_nonzero(magnitude <= FLUSHED) - np.count_nonzero(magnitude == 0)
    small = np.count_nonzero(magnitude < DENORMAL) - np.count_nonzero(magnitude <= FLUSHED)
    return lost / max(array.size, 1), small / max(array.size, 1)


def largest(low: ir.DataType) -> float:
    """Return the largest finite number of a floating-point type."""
    return float(ml_dtypes.finfo(low.numpy()).max)  # type: ignore[no-untyped-call]  # ml_dtypes leaves finfo untyped


def name(dtype: ir.DataType) -> str:
    """Return the type's name as recipes spell it."""
    return "float32" if dtype == ir.DataType.FLOAT else dtype.name.lower()


def low_scales(scales: Array, low: ir.DataType) -> Array:
    """Return positive scales in the type ``low``, rounded up, so that no value is clipped anew."""
    kind: Any = low.numpy()
    rounded = scales.astype(kind)
    below = rounded.astype(np.float32) < scales
    return np.where(below, np.nextafter(rounded, kind.type(np.inf)), rounded).astype(kind)
