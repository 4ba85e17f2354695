"""Step ``time-onnxruntime``: how long the model takes under ONNX Runtime, node by node."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import onnx_ir as ir

from trtforge import Batches, Context, Engine, Profiler, RequestError, Timings
from trtforge.feeds import synthesize
from trtforge.reference import CUDA, Provider, Reference
from trtforge.timing_files import read_timings
from trtforge.timing_statistics import summarize
from trtforge_plugins.profiling.gpu_samples import sampled

if TYPE_CHECKING:
    from trtforge.artifacts import Array

TRACED = 10
"""Runs with the profiler on, which tell how the time is spread over the nodes."""


@dataclass(frozen=True)
class TimeOnnxruntime(Profiler):
    """Time the model under ONNX Runtime, on the CPU or a CUDA GPU.

    Whole runs are timed without the profiler; a few more with it tell the share of each node. The
    session is the reference's: Q/DQ is computed as the model says, not fused into integer kernels,
    and float16 is rounded explicitly on the CPU, so this is no measure of ONNX Runtime's best.
    """

    name = "time-onnxruntime"

    runs: int = 50
    """Runs that count."""
    warmup: int = 5
    """Runs before them."""
    provider: Provider = "auto"
    """`cpu`, `cuda`, or the faster one that works."""
    threads: int | None = None
    """Threads within one operator; by default one per CPU core."""

    def profile(self, model: ir.Model, engine: Engine | None, ctx: Context) -> Timings:
        """Run the first batch of the data, or made-up inputs, again and again.

        Raises:
            RequestError: fewer than one run, or a negative number to warm up.
            EnvironmentLacks: CUDA is asked for and does not work.
        """
        del engine
        if self.runs < 1 or self.warmup < 0:
            raise RequestError(f"runs {self.runs} and warmup {self.warmup} make no measurement")
        feed, data = _feed(model, ctx)
        session = Reference(model, provider=self.provider, threads=self.threads)
        with sampled(on=session.provider == CUDA) as gpu:
            times = [_timed(session, feed) for _ in range(self.warmup + self.runs)]
        with TemporaryDirectory(prefix="trtforge-trace-") as folder:
            nodes = self._nodes(model, feed, Path(folder))
        found = summarize(
            times,
            device=f"ONNX Runtime, {session.provider}",
            warmup=self.warmup,
            notes=(
                f"on {data}",
                "inputs and outputs lie on the CPU: copies to and from a GPU count",
                f"the nodes' times are from {TRACED} further runs with the profiler on",
                *gpu(),
            ),
        )
        return replace(found, layers=nodes.layers)

    def _nodes(self, model: ir.Model, feed: Mapping[str, Array], folder: Path) -> Timings:
        traced = Reference(
            model, provider=self.provider, threads=self.threads, trace=str(folder / "trace")
        )
        for _ in range(1 + TRACED):
            traced.run(feed)
        return read_timings(Path(traced.end_trace()), warmup=1)


def _feed(model: ir.Model, ctx: Context) -> tuple[Mapping[str, Array], str]:
    batches = ctx.find(Batches)
    if batches is None:
        profile = ctx.request.profiles[0] if ctx.request.profiles else None
        batches = synthesize(model, profile, samples=1)
    return next(iter(batches.feeds)), f"the first batch of {batches.source}"


def _timed(session: Reference, feed: Mapping[str, Array]) -> float:
    start = time.perf_counter()
    session.run(feed)
    return 1e3 * (time.perf_counter() - start)
