"""Step ``calibrate-max``: the smallest and the largest value seen."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from trtforge import Batches, Calibrator, Context, Range, Ranges, StepError
from trtforge_plugins.precision.element_types import element_types
from trtforge_plugins.precision.observe import observe
from trtforge_plugins.precision.placement import place


@dataclass(frozen=True)
class CalibrateMax(Calibrator):
    """Measure the smallest and largest value of each tensor that can be quantized.

    Nothing is clipped, which suits inputs without outliers; memory holds one batch at a time.
    """

    name = "calibrate-max"

    def calibrate(self, model: ir.Model, batches: Batches, ctx: Context) -> Ranges:
        """Return the ranges over all batches.

        Raises:
            StepError: there is nothing to quantize or no data, the model does not run on the
                data, or a tensor holds NaN or Inf.
        """
        types = element_types(model)
        tensors = {value: types[value] for value in place(model).tensors if value in types}
        if not tensors:
            raise StepError(
                "the model has no node that could be quantized",
                remedy="insert-qdq quantizes Conv, Gemm and MatMul with constant weights",
            )
        lows: dict[str, float] = {}
        highs: dict[str, float] = {}
        for seen in observe(model, tensors, batches, ctx):
            for name, array in seen.items():
                if array.size:
                    lows[name] = min(lows.get(name, float("inf")), float(array.min()))
                    highs[name] = max(highs.get(name, float("-inf")), float(array.max()))
        if not lows:
            raise StepError(f"{batches.source} holds no values to calibrate with")
        ranges = {name: Range(low, highs[name]) for name, low in lows.items()}
        return Ranges(ranges, "max", batches.samples, batches.source, batches.real)
