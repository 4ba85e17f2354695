"""What ScatterND and ScatterElements with a reduction share."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

Reduction = Literal["add", "mul", "max", "min"]
BLOCK = 256
MOST_AXES = 8
"""TensorRT's own limit for the rank of a tensor; the kernels take as many lengths."""

COMBINE: dict[str, np.ufunc] = {
    "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum,
}  # fmt: skip


def as_reduction(name: str) -> Reduction | None:
    """Return the reduction of this name; None: there is none."""
    return next((known for known in get_args(Reduction) if known == name), None)


def lengths(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return ``shape`` with ones before it, so that it has :data:`MOST_AXES` entries."""
    return (1,) * (MOST_AXES - len(shape)) + shape


def combined(
    data: np.ndarray[Any, Any], places: tuple[Any, ...], updates: np.ndarray[Any, Any], how: str
) -> np.ndarray[Any, Any]:
    """Return ``data`` with ``updates`` combined into ``places``, computed in float64 for floats."""
    wide = data.astype(np.float64) if data.dtype.kind == "f" else data.copy()
    COMBINE[how].at(wide, places, updates.astype(wide.dtype))
    return wide.astype(data.dtype)
