"""Step ``calibrate-average``: the extremes of a typical batch."""

from __future__ import annotations

from dataclasses import dataclass

from trtforge import Range, TensorStatistics
from trtforge_plugins.precision.histogram_calibrator import HistogramCalibrator


@dataclass(frozen=True)
class CalibrateAverage(HistogramCalibrator):
    """Take the mean, over the batches, of each batch's smallest and largest value.

    It clips what only few batches reach (Krishnamoorthi, "Quantizing deep convolutional networks
    for efficient inference", 2018, averages while it runs; here all batches weigh the same). The
    result depends on the batch size.
    """

    name = "calibrate-average"

    def choose(self, seen: TensorStatistics) -> Range:
        """Return the averages."""
        return Range(seen.average_low, seen.average_high)
