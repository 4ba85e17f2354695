"""How much INT8 changes the products of one activation, on a sample of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from trtforge.graph import constant
from trtforge_plugins.precision.placement import Point
from trtforge_plugins.precision.quantized_weights import FORMATS, channel_scales, quantize, scale_of
from trtforge_plugins.precision.sampled_rows import Rows

if TYPE_CHECKING:
    from trtforge.artifacts import Array

_INT8 = FORMATS["int8"]


def as_matrix(point: Point) -> Array:
    """Return the weight of a MatMul or Gemm as [channels, outputs]."""
    array = np.asarray(constant(point.constant))
    return array.T if point.node.attributes.get_int("transB", 0) else array


class ProductError:
    """The error of ``rows @ weight`` for each weight, with both operands in INT8.

    Args:
        rows: A sample of the activation, and the largest magnitude of each channel in all data.
        weights: Matrices [channels, outputs].
        per_channel: For each weight whether each output has a scale of its own.
    """

    def __init__(self, rows: Rows, weights: Sequence[Array], per_channel: Sequence[bool]) -> None:
        self._rows = rows
        self._weights = weights
        self._axes = [1 if own else None for own in per_channel]
        self._exact = [rows.sample @ weight for weight in weights]

    def of(self, factors: Array | None) -> float:
        """Return the sum over the weights of noise power over power.

        Args:
            factors: What channels are divided by and rows of the weights multiplied by:
                float32[channels]; None: 1.
        """
        divisors = np.float32(1) if factors is None else factors
        scale = np.float32(scale_of(float((self._rows.amax / divisors).max()), _INT8))
        sample = np.clip(np.rint(self._rows.sample / (divisors * scale)), -128, 127) * scale
        error = 0.0
        for weight, axis, exact in zip(self._weights, self._axes, self._exact, strict=True):
            moved = weight if factors is None else weight * factors[:, None]
            noise = sample @ _rounded(moved, axis) - exact
            error += float(np.square(noise).sum() / max(np.square(exact).sum(), _TINY))
        return error


_TINY = float(np.finfo(np.float32).tiny)


def _rounded(weight: Array, axis: int | None) -> Array:
    scales = channel_scales(weight, axis, _INT8)
    return quantize(weight, scales, axis, _INT8) * scales
