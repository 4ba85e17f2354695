"""Step ``calibrate-mse``: the range with the smallest expected squared error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trtforge import Range, TensorStatistics
from trtforge_plugins.precision.histogram_calibrator import HistogramCalibrator, clipped
from trtforge_plugins.precision.magnitude_histogram import squared_error, without_zeros

COARSE, FINE = 48, 17
"""Candidates from 1/64 of the largest magnitude up, and around the best of them."""


@dataclass(frozen=True)
class CalibrateMse(HistogramCalibrator):
    """Take the range with the smallest mean squared error of INT8 quantization.

    Clipping and rounding are weighed on the tensor's histogram (Nagel et al., "A white paper on
    neural network quantization", 2021, section 3.1).
    """

    name = "calibrate-mse"

    def choose(self, seen: TensorStatistics) -> Range:
        """Return the range: the best of a coarse geometric grid, then of a fine one around it."""
        counts = without_zeros(seen)
        ratios = np.geomspace(1 / 64, 1, COARSE)
        best = _best(counts, seen, seen.amax * ratios)
        spread = ratios[1] / ratios[0]
        around = best * np.geomspace(1 / spread, spread, FINE)
        return clipped(seen, _best(counts, seen, np.minimum(around, seen.amax)))


def _best(counts: np.ndarray, seen: TensorStatistics, amaxes: np.ndarray) -> float:
    """Return the range with the smallest error; of equal ones, the largest."""
    errors = squared_error(counts, seen.width, amaxes)[::-1]
    return float(amaxes[::-1][np.argmin(errors)])
