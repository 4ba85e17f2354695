"""Histograms of magnitudes, and what symmetric INT8 quantization would cost on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from trtforge import TensorStatistics
    from trtforge.artifacts import Array

LEVELS = 127
"""Largest code of symmetric INT8."""


def fold(counts: Array) -> Array:
    """Return the histogram of the magnitudes, int64[n], of a signed one, int64[2 * n]."""
    half = len(counts) // 2
    return counts[half:] + counts[:half][::-1]


def without_zeros(seen: TensorStatistics) -> Array:
    """Return the histogram of the magnitudes other than 0, which cost nothing in any range."""
    counts = fold(seen.counts)
    counts[0] -= seen.zeros
    return counts


def squared_error(counts: Array, width: float, amaxes: Array) -> Array:
    """Return the sum of squared errors of INT8 quantization for each choice of range.

    The error is integrated, not sampled at bin centres: within a bin, values count as evenly
    spread. For a step s, rounding takes the antiderivative s^3 F(x / s) with
    F(u) = (r + 4 (u - r)^3) / 12, r = round(u); clipping at T takes (x - T)^3 / 3.

    Args:
        counts: Histogram of magnitudes: int64[n].
        width: Width of a bin.
        amaxes: Largest magnitudes to choose from, positive: float64[k].

    Returns:
        float64[k].
    """
    used = np.flatnonzero(counts)
    if not len(used):
        return np.zeros(len(amaxes))
    edges = np.arange(used[-1] + 2) * width
    per_value = counts[: used[-1] + 1] / width
    errors = [np.dot(per_value, np.diff(_error_below(edges, float(amax)))) for amax in amaxes]
    return np.array(errors)


def _error_below(edges: Array, amax: float) -> Array:
    """Return the integral of the squared error from 0 to each edge."""
    step = amax / LEVELS
    scaled = np.minimum(edges, amax) / step
    whole = np.rint(scaled)
    beyond = np.maximum(edges - amax, 0.0)
    inside: Array = step**3 * (whole + 4 * (scaled - whole) ** 3) / 12
    return inside + beyond**3 / 3
