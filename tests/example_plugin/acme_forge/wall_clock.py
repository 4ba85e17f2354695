"""A profiler."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

import trtforge as tf


@dataclass(frozen=True)
class WallClock(tf.Profiler):
    """Time the model under ONNX Runtime on the CPU by the clock on the wall."""

    name = "acme-wall-clock"
    needs = (tf.Batches,)

    runs: int = 20
    """Runs that count."""
    warmup: int = 3
    """Runs before them."""

    def profile(self, model: ir.Model, engine: tf.Engine | None, ctx: tf.Context) -> tf.Timings:
        """Run the first batch again and again.

        Raises:
            RequestError: fewer than one run, or a negative number to warm up.
        """
        import onnxruntime as ort

        if self.runs < 1 or self.warmup < 0:
            raise tf.RequestError(f"runs {self.runs} and warmup {self.warmup} make no measurement")
        session = ort.InferenceSession(
            ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
        )
        feeds = dict(ctx.get(tf.Batches).feeds[0])
        milliseconds = []
        for _ in range(self.warmup + self.runs):
            start = time.perf_counter()
            session.run(None, feeds)
            milliseconds.append(1000 * (time.perf_counter() - start))
        median, p90, p99 = np.percentile(milliseconds[self.warmup :], [50, 90, 99])
        return tf.Timings(
            device="onnxruntime CPUExecutionProvider",
            runs=self.runs,
            warmup=self.warmup,
            median_ms=float(median),
            p90_ms=float(p90),
            p99_ms=float(p99),
        )
