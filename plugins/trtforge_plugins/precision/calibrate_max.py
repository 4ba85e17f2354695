"""Step ``calibrate-max``: the smallest and the largest value seen."""

from __future__ import annotations

from dataclasses import dataclass

from trtforge import Range, TensorStatistics
from trtforge_plugins.precision.histogram_calibrator import HistogramCalibrator


@dataclass(frozen=True)
class CalibrateMax(HistogramCalibrator):
    """Take the smallest and largest value of each tensor that can be quantized.

    Nothing is clipped, which suits inputs without outliers.
    """

    name = "calibrate-max"

    def choose(self, seen: TensorStatistics) -> Range:
        """Return the extremes."""
        return Range(seen.low, seen.high)
