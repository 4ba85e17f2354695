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


def expected_error(counts: Array, width: float, amaxes: Array, power: float = 2.0) -> Array:
    """Return the sum of |error| ** power of INT8 quantization for each choice of range.

    The error is integrated, not sampled at bin centres: within a bin, values count as evenly
    spread. With u = x / step, r = round(u), d = u - r and q = power + 1, the antiderivative of
    what rounding does is step^q (2 r / 2^q + sign(d) |d|^q) / q; that of clipping at T is
    (x - T)^q / q.

    Args:
        counts: Histogram of magnitudes: int64[n].
        width: Width of a bin.
        amaxes: Largest magnitudes to choose from, positive: float64[k].
        power: 2 for squared errors.

    Returns:
        float64[k].
    """
    used = np.flatnonzero(counts)
    if not len(used):
        return np.zeros(len(amaxes))
    edges = np.arange(used[-1] + 2, dtype=np.float64)  # in bins, so that nothing overflows
    share = counts[: used[-1] + 1] / counts.sum()
    limits = np.asarray(amaxes) / width
    errors = [np.dot(share, np.diff(_error_below(edges, limit, power + 1))) for limit in limits]
    scaled: Array = np.array(errors) * (float(counts.sum()) * width**power)
    return scaled


def _error_below(edges: Array, amax: float, q: float) -> Array:
    """Return the integral of the error from 0 to each edge; edges are 0, 1, 2 and so on."""
    step = amax / LEVELS
    rounded = int(min(amax, edges[-1])) + 1  # edges; the rest are clipped: powers take the time
    scaled = edges[:rounded] / step
    whole = np.rint(scaled)
    rest = scaled - whole
    found: Array = np.empty_like(edges)
    found[:rounded] = whole * (2 / 2**q) + np.copysign(np.abs(rest) ** q, rest)
    found[rounded:] = LEVELS * 2 / 2**q
    found *= step**q
    found[rounded:] += (edges[rounded:] - amax) ** q
    found /= q
    return found
