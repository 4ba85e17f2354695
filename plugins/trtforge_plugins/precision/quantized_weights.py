"""Scales and stored weights of symmetric quantization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from trtforge.artifacts import Array


@dataclass(frozen=True)
class Format:
    """A type for quantized numbers."""

    dtype: ir.DataType
    largest: float
    """Largest magnitude used; INT8 leaves -128 out, so that the grid is symmetric."""
    opset: int
    """First ONNX opset whose QuantizeLinear or DequantizeLinear has the type as it is used here."""


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "int8": Format(ir.DataType.INT8, 127.0, 13),
        "float8e4m3fn": Format(ir.DataType.FLOAT8E4M3FN, 448.0, 19),
        "int4": Format(ir.DataType.INT4, 7.0, 21),
        "float4e2m1": Format(ir.DataType.FLOAT4E2M1, 6.0, 23),
    }
)
_STORED = {
    ir.DataType.INT8: np.int8,
    ir.DataType.INT4: ml_dtypes.int4,
    ir.DataType.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
    ir.DataType.FLOAT4E2M1: ml_dtypes.float4_e2m1fn,
}
_AT_ONCE = 2**16
"""Weights divided and rounded at once: they stay in a core's cache."""
_SMALLEST = float(np.finfo(np.float32).tiny)


def scale_of(amax: float, target: Format) -> float:
    """Return the scale that maps ``amax`` to the largest magnitude; never 0 or denormal."""
    return max(amax / target.largest, _SMALLEST)


def channel_scales(weight: Array, axis: int | None, target: Format) -> Array:
    """Return one float32 scale per entry of ``axis``, or a single one where ``axis`` is None.

    It is 1 where all weights are zero.

    Raises:
        ValueError: a weight is NaN or infinite.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    highest, lowest = (f(axis=others, initial=0) for f in (weight.max, weight.min))
    return _scales(np.maximum(highest, -lowest), target)


def block_scales(weight: Array, axis: int, block: int, target: Format) -> Array:
    """Return one float32 scale per ``block`` neighbours along ``axis``, whose size it divides.

    Raises:
        ValueError: a weight is NaN or infinite.
    """
    return _scales(np.abs(_in_blocks(weight, axis, block)).max(axis=axis + 1, initial=0), target)


def _scales(amax: Array, target: Format) -> Array:
    amax = np.asarray(amax, np.float64)
    if not np.isfinite(amax).all():
        raise ValueError("it has a NaN or infinite entry")
    scales = np.where(amax > 0, np.maximum(amax / target.largest, _SMALLEST), 1.0)
    return scales.astype(np.float32)


def quantize(array: Array, scales: Array, axis: int | None, target: Format) -> Array:
    """Return ``array / scales`` rounded to nearest even and saturated, as the target's type."""
    shape = [1] * array.ndim
    if axis is not None:
        shape[axis] = -1
    divisors = np.broadcast_to(scales.reshape(shape), array.shape)
    stored = np.empty(array.shape, _STORED[target.dtype])
    length = max(1, _AT_ONCE // max(1, array[:1].size))
    for first in range(0, len(array), length):
        part = slice(first, first + length)
        stored[part] = _rounded(array[part].astype(np.float32) / divisors[part], target)
    return stored


def quantize_blocks(array: Array, scales: Array, axis: int, block: int, target: Format) -> Array:
    """Return ``array`` quantized with one scale per ``block`` neighbours along ``axis``."""
    parts = _in_blocks(array, axis, block).astype(np.float32)
    return _rounded(parts / np.expand_dims(scales, axis + 1), target).reshape(array.shape)


def _in_blocks(array: Array, axis: int, block: int) -> Array:
    shape = array.shape
    return array.reshape(*shape[:axis], shape[axis] // block, block, *shape[axis + 1 :])


def _rounded(scaled: Array, target: Format) -> Array:
    """Round and saturate in place; the floating-point types round where they are cast."""
    if target.dtype.is_integer():
        np.rint(scaled, out=scaled)
    np.clip(scaled, -target.largest, target.largest, out=scaled)
    return scaled.astype(_STORED[target.dtype])


def requantize(codes: Array, old: Array, new: Array, axis: int) -> Array | None:
    """Return INT8 codes that mean the same with scales ``new``; None where they would not change.

    ``new`` must not be smaller than ``old``, so that nothing is clipped.
    """
    ratio = old.astype(np.float32) / new
    if codes.dtype != np.int8 or ratio.min(initial=1.0) > 1 - 0.5 / 127:
        return None
    shape = [1] * codes.ndim
    if ratio.ndim:
        shape[axis] = -1
    return np.rint(codes * ratio.reshape(shape)).astype(np.int8)
