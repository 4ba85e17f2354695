"""Step ``calibrate-mse``: the range with the smallest expected error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from trtforge import Range, TensorStatistics
from trtforge_plugins.precision.histogram_calibrator import HistogramCalibrator, clipped
from trtforge_plugins.precision.magnitude_histogram import expected_error, without_zeros

if TYPE_CHECKING:
    from trtforge.artifacts import Array

COARSE, FINE = 33, 17
"""Candidates from 1/64 of the largest magnitude up, and around the best of them."""
_MERGED = 4
"""Bins taken together: there are still four or more per quantization step of the whole range."""


@dataclass(frozen=True)
class CalibrateMse(HistogramCalibrator):
    """Take the range with the smallest expected error of INT8 quantization.

    Clipping and rounding are weighed on the tensor's histogram (Nagel et al., "A white paper on
    neural network quantization", 2021, section 3.1).
    """

    name = "calibrate-mse"

    power: Annotated[float, Field(ge=1, le=8)] = 2.4
    """Power of the error: 2 is the mean squared error. The default weighs clipping a little more
    (Nahshan et al., "Loss aware post-training quantization", 2021), which large models need."""

    def choose(self, seen: TensorStatistics) -> Range:
        """Return the range: the best of a coarse geometric grid, then of a fine one around it."""
        counts = without_zeros(seen).reshape(-1, _MERGED).sum(axis=1)
        width = seen.width * _MERGED
        ratios = np.geomspace(1 / 64, 1, COARSE)
        best = self._best(counts, width, seen.amax * ratios)
        spread = ratios[1] / ratios[0]
        around = best * np.geomspace(1 / spread, spread, FINE)
        return clipped(seen, self._best(counts, width, np.minimum(around, seen.amax)))

    def _best(self, counts: Array, width: float, amaxes: Array) -> float:
        """Return the range with the smallest error; of equal ones, the largest."""
        errors = expected_error(counts, width, amaxes, self.power)[::-1]
        return float(amaxes[::-1][np.argmin(errors)])
