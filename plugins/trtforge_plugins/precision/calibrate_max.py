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

    histogram: bool = False
    """Also collect the distributions that the report shows and that other calibrators choose from;
    it takes about a quarter longer."""

    @property
    def needs_histogram(self) -> bool:
        """Whether more than the extremes is wanted."""
        return self.histogram or self.power_of_two

    def choose(self, seen: TensorStatistics) -> Range:
        """Return the extremes."""
        return Range(seen.low, seen.high)
