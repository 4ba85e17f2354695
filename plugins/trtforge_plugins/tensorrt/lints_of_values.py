"""Lints that look at the values of constants; each constant is read once, in parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from trtforge import Request
from trtforge.graph import is_op

LARGEST_FLOAT16 = 65504.0
SMALLEST_FLOAT16 = 6e-8
"""The smallest positive number that float16 has (subnormal, 2**-24), rounded."""
MIN_DUPLICATE = 1024
_PART = 2**22
_NOT_VALUES = {"Slice", "Pad", "Reshape", "Expand", "Tile", "Resize", "Clip"}


def integer_risk(model: ir.Model, _request: Request) -> Iterator[tuple[str, str, str]]:
    """Yield int64 constants out of int32's range; bounds of a Slice may be, and are left out."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.INT64 or not tensor.nbytes:
            continue
        if all(use.node.op_type in _NOT_VALUES for use in value.uses()):
            continue
        array = np.asarray(tensor.numpy())
        low, high = int(array.min()), int(array.max())
        if low < -(2**31) or high >= 2**31:
            yield value.name or "", "", f"values from {low} to {high}"


def duplicates(model: ir.Model, _request: Request) -> Iterator[tuple[str, str, str]]:
    """Yield constants of 1 KiB and more that repeat an earlier one."""
    alike: dict[tuple[object, ...], list[ir.Value]] = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.nbytes < MIN_DUPLICATE:
            continue
        key = (tensor.dtype, tuple(tensor.shape.numpy()))
        alike.setdefault(key, []).append(value)
    for values in alike.values():
        seen: dict[bytes, str] = {}
        for value in values if len(values) > 1 else ():
            mark = _mark(value)
            if mark in seen:
                yield value.name or "", "", f"the same as {seen[mark]!r}"
            else:
                seen[mark] = value.name or ""


def _mark(value: ir.Value) -> bytes:
    array = np.asarray(value.const_value.numpy()) if value.const_value is not None else np.empty(0)
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return hashlib.blake2b(data.data).digest()


def float16_risk(model: ir.Model, _request: Request) -> Iterator[tuple[str, str, str]]:
    """Yield float32 constants with values that become infinite or zero in float16."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or not tensor.nbytes:
            continue
        if value.uses() and all(_takes_scales(use.node, use.idx) for use in value.uses()):
            continue
        largest, smallest = _extremes(np.asarray(tensor.numpy()))
        if largest > LARGEST_FLOAT16:
            yield value.name or "", "", f"largest magnitude {largest:.4g}"
        elif 0 < largest < SMALLEST_FLOAT16:
            yield value.name or "", "", f"all of it is below {SMALLEST_FLOAT16:g}: {smallest:.4g}"


def _takes_scales(node: ir.Node, index: int) -> bool:
    """Whether the constant is a scale of Q/DQ, or a number of a Resize: those stay in float32."""
    return is_op(node, "QuantizeLinear", "DequantizeLinear", "Resize") and index > 0


def _extremes(array: np.ndarray) -> tuple[float, float]:
    """Return the largest and the smallest magnitude; infinite and NaN count as they are."""
    flat = array.reshape(-1)
    largest, smallest = 0.0, np.inf
    for start in range(0, flat.size, _PART):
        part = flat[start : start + _PART]
        high, low = float(part.max()), float(part.min())
        largest = max(largest, abs(high), abs(low))
        smallest = min(smallest, abs(high), abs(low))
    return largest, smallest
