"""What all calibrators share: statistics in, one range per tensor out."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trtforge import Batches, Calibrator, Context, Range, Ranges, Statistics, TensorStatistics
from trtforge.reference import Provider
from trtforge_plugins.precision.collect_statistics import collect, known_statistics
from trtforge_plugins.precision.convergence import tell_convergence
from trtforge_plugins.precision.magnitude_histogram import LEVELS, expected_error, without_zeros


@dataclass(frozen=True)
class HistogramCalibrator(Calibrator):
    """Chooses each range from the tensor's statistics alone."""

    gives = (Ranges, Statistics)

    power_of_two: bool = False
    """Make each INT8 scale a power of two: of the two next to the choice, the better one."""
    provider: Provider = "auto"
    """Where ONNX Runtime runs: `cpu`, `cuda`, or `auto`: CUDA where it works."""

    @property
    def needs_histogram(self) -> bool:
        """Whether the extremes do not suffice; the statistics are given to later steps then."""
        return True

    @abstractmethod
    def choose(self, seen: TensorStatistics) -> Range:
        """Return the range of one tensor that is not all zeros; it lies within what was seen."""

    def calibrate(self, model: ir.Model, batches: Batches, ctx: Context) -> Ranges:
        """Return the ranges over all batches, and give the statistics they were chosen from.

        Statistics of an earlier step are used where they are of this model and data.

        Raises:
            StepError: there is nothing to quantize or no data, the model does not run on the
                data, or a tensor holds NaN or Inf.
        """
        statistics = known_statistics(model, batches, ctx)
        if statistics is None:
            statistics = collect(ctx, self.provider, histogram=self.needs_histogram)
        if self.needs_histogram:
            ctx.put(statistics)
        ranges = {name: self._range(seen) for name, seen in statistics.by_tensor.items()}
        tell_convergence(statistics, ranges, ctx)
        method = self.name.removeprefix("calibrate-")
        return Ranges(ranges, method, batches.samples, batches.source, batches.real)

    def _range(self, seen: TensorStatistics) -> Range:
        if seen.amax == 0:
            return Range(0.0, 0.0)
        chosen = self.choose(seen)
        return to_power_of_two(seen, chosen.amax) if self.power_of_two else chosen


def clipped(seen: TensorStatistics, amax: float) -> Range:
    """Return what was seen, clipped to magnitudes up to ``amax``."""
    return Range(max(seen.low, -amax), min(seen.high, amax))


def to_power_of_two(seen: TensorStatistics, amax: float) -> Range:
    """Return the range whose INT8 scale is the power of two below or above, by squared error."""
    power = math.floor(math.log2(amax / LEVELS))
    amaxes = LEVELS * 2.0 ** np.array([power + 1, power])
    errors = expected_error(without_zeros(seen), seen.width, amaxes)
    best = float(amaxes[np.argmin(errors)])
    return Range(-best if seen.low < 0 else 0.0, best)
