"""Step ``calibrate-entropy``: the range that loses least information, as TensorRT's calibrator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trtforge import Range, TensorStatistics
from trtforge_plugins.precision.histogram_calibrator import HistogramCalibrator, clipped
from trtforge_plugins.precision.magnitude_histogram import expected_error, without_zeros

if TYPE_CHECKING:
    from trtforge.artifacts import Array

QUANTA = 128
"""Levels of a magnitude in INT8."""
_MERGED = 2
"""Bins taken together: at most 2048 are left, as in TensorRT."""
_CANDIDATES = 33
_EQUAL = 1e-12
"""Of cuts that are equally good up to rounding, the one that clips least is taken."""


@dataclass(frozen=True)
class CalibrateEntropy(HistogramCalibrator):
    """Take the range with the smallest Kullback-Leibler divergence after quantization.

    The method of TensorRT's entropy calibrator (Migacz, "8-bit inference with TensorRT", GTC 2017):
    the histogram cut at each bin, with what is cut off added to the last one, is compared with
    itself quantized to 128 levels. Two things differ: values that are exactly 0 are left out, and
    no cut is taken whose expected squared error is larger than that of clipping nothing (on
    histograms with spikes, the divergence alone would cut into the bulk of the values).
    """

    name = "calibrate-entropy"

    def choose(self, seen: TensorStatistics) -> Range:
        """Return the range."""
        counts = without_zeros(seen).reshape(-1, _MERGED).sum(axis=1)
        used = np.flatnonzero(counts)
        if not len(used) or used[-1] < QUANTA:
            return Range(seen.low, seen.high)
        width = seen.width * _MERGED
        useful = math.ceil(_smallest_useful(counts, width, seen.amax) / width)
        first = min(max(useful, QUANTA), int(used[-1]) + 1)
        found = divergences(counts[: used[-1] + 1], first)
        equal = np.flatnonzero(found <= found.min() + _EQUAL)
        return clipped(seen, (first + int(equal[-1])) * width)


def _smallest_useful(counts: Array, width: float, amax: float) -> float:
    """Return the smallest range whose expected squared error is not above that of ``amax``."""
    counts, width = counts.reshape(-1, 2).sum(axis=1), width * 2
    amaxes = amax * np.geomspace(1 / 64, 1, _CANDIDATES)
    errors = expected_error(counts, width, amaxes)
    return float(amaxes[np.flatnonzero(errors <= errors[-1])[0]])


def divergences(counts: Array, first: int = QUANTA) -> Array:
    """Return the divergence of each cut of a histogram, from ``first`` bins to all of them.

    Every sum over the bins of a level is a difference of prefix sums, so a cut costs 128 steps
    however many bins it has. A cut whose last bin is empty, although something is cut off there,
    is infinitely bad: the quantized histogram has nothing where the other has something.

    Args:
        counts: Histogram of magnitudes: int64[n], n >= 128, its last entry not 0.
        first: At least 128.

    Returns:
        float64[n - first + 1].
    """
    total = counts.sum()
    below = _prefix(counts)
    filled = _prefix(counts > 0)
    cuts = np.arange(first, len(counts) + 1)
    edges = cuts[:, None] * np.arange(QUANTA + 1) // QUANTA
    mass = np.diff(below[edges], axis=1)  # of each level, before anything is cut off
    bins = np.diff(filled[edges], axis=1)  # of each level, that hold something: few
    cut_off = total - below[cuts]
    last = counts[cuts - 1]
    reference = mass.copy()
    reference[:, -1] += cut_off
    own = _prefix(_x_log_x(counts))[cuts] - _x_log_x(last) + _x_log_x(last + cut_off)
    logarithms = (
        np.log(np.maximum(mass, 1)) - np.log(np.maximum(np.arange(bins.max() + 1), 1))[bins]
    )
    cross = (reference * logarithms).sum(axis=1)
    found: Array = (own - cross) / total - np.log(total) + np.log(np.maximum(below[cuts], 1))
    return np.where((last == 0) & (cut_off > 0), np.inf, found)


def _prefix(values: Array) -> Array:
    return np.concatenate([[0], np.cumsum(values)])


def _x_log_x(values: Array) -> Array:
    return np.asarray(values * np.log(np.maximum(values, 1)))
