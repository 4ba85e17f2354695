"""Step ``calibrate-percentile``: clip a fixed share of the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from trtforge import Range, TensorStatistics
from trtforge_plugins.precision.histogram_calibrator import HistogramCalibrator, clipped
from trtforge_plugins.precision.magnitude_histogram import fold


@dataclass(frozen=True)
class CalibratePercentile(HistogramCalibrator):
    """Take the range that holds a given percentage of the magnitudes; the rest is clipped."""

    name = "calibrate-percentile"

    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99
    """Percentage of the magnitudes, zeros included, that lie inside; 100 clips nothing."""

    def choose(self, seen: TensorStatistics) -> Range:
        """Return the range; within a bin, values count as evenly spread."""
        counts = fold(seen.counts)
        wanted = self.percentile / 100 * seen.count
        above = np.concatenate([[0], np.cumsum(counts)])
        amax = float(np.interp(wanted, above, np.arange(len(above)) * seen.width))
        return clipped(seen, amax)
