"""A calibrator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

import trtforge as tf


@dataclass(frozen=True)
class CalibratePercentile(tf.Calibrator):
    """Choose the range of each tensor so that rare outliers of its values are clipped."""

    name = "acme-calibrate-percentile"

    percentile: float = 99.9
    """Share of the magnitudes, in percent, that the range covers; of each batch, then averaged."""

    def calibrate(self, model: ir.Model, batches: tf.Batches, ctx: tf.Context) -> tf.Ranges:
        """Run the model with every float tensor as an output.

        Raises:
            RequestError: the percentile is not within 0 and 100.
        """
        import onnxruntime as ort

        if not 0 < self.percentile <= 100:
            raise tf.RequestError(
                f"percentile {self.percentile} is not within 0 and 100", remedy="use 99.9, say"
            )
        proto = onnx.shape_inference.infer_shapes(ir.to_proto(model))
        observed = [value for value in proto.graph.value_info if _is_float(value)]
        proto.graph.output.extend(observed)
        names = [
            value.name for value in (*proto.graph.input, *proto.graph.output) if _is_float(value)
        ]
        session = ort.InferenceSession(
            proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        outputs = [output.name for output in session.get_outputs()]
        limits: dict[str, list[float]] = {name: [] for name in names}
        for number, feeds in enumerate(batches.feeds, 1):
            arrays = {**feeds, **dict(zip(outputs, session.run(outputs, feeds), strict=True))}
            for name in names:
                limits[name].append(self._limit(arrays[name]))
            ctx.progress.update("calibrate", number, len(batches.feeds))
        ranges = {name: float(np.mean(seen)) for name, seen in limits.items() if seen}
        return tf.Ranges(
            {name: tf.Range(-limit, limit) for name, limit in ranges.items()},
            method=f"percentile {self.percentile}",
            samples=batches.samples,
            source=batches.source,
            real=batches.real,
        )

    def _limit(self, array: Any) -> float:
        return float(np.percentile(np.abs(array), self.percentile)) if array.size else 0.0


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
