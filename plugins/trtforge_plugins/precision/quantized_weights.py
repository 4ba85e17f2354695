"""Scales and stored weights of symmetric 8-bit quantization."""

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
    """An 8-bit type that TensorRT multiplies in."""

    dtype: ir.DataType
    largest: float
    """Largest magnitude used; INT8 leaves -128 out, so that the grid is symmetric."""
    opset: int
    """First ONNX opset whose QuantizeLinear has the type (and per-channel scales)."""


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "int8": Format(ir.DataType.INT8, 127.0, 13),
        "float8e4m3fn": Format(ir.DataType.FLOAT8E4M3FN, 448.0, 19),
    }
)
_SMALLEST = float(np.finfo(np.float32).tiny)


def scale_of(amax: float, target: Format) -> float:
    """Return the scale that maps ``amax`` to the largest magnitude; never 0 or denormal."""
    return max(amax / target.largest, _SMALLEST)


def channel_scales(weight: Array, axis: int, target: Format) -> Array:
    """Return one float32 scale per entry of ``axis``; 1 where all weights are zero.

    Raises:
        ValueError: a weight is NaN or infinite.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    amax = np.abs(weight).max(axis=others, initial=0).astype(np.float64)
    if not np.isfinite(amax).all():
        raise ValueError("it has a NaN or infinite entry")
    scales = np.where(amax > 0, np.maximum(amax / target.largest, _SMALLEST), 1.0)
    return scales.astype(np.float32)


def quantize(array: Array, scales: Array, axis: int, target: Format) -> Array:
    """Return ``array / scales`` rounded to nearest even and saturated, as the target's type."""
    shape = [1] * array.ndim
    shape[axis] = -1
    scaled = array.astype(np.float32) / scales.reshape(shape)
    if target.dtype == ir.DataType.INT8:
        np.rint(scaled, out=scaled)
    np.clip(scaled, -target.largest, target.largest, out=scaled)
    if target.dtype == ir.DataType.INT8:
        return scaled.astype(np.int8)
    return scaled.astype(ml_dtypes.float8_e4m3fn)


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
