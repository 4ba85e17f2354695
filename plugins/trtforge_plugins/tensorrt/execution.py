"""Runs an engine on a GPU and times it: CuPy's events for the whole, TensorRT's profiler by layer.

Written against the API of TensorRT 10.13 to 11.4 and TensorRT-RTX 1.7.1, and tested with stand-ins
for both libraries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from trtforge import StepError

PROFILED = 20
"""Runs with the profiler on, which times each layer by itself."""


class Execution:
    """An engine with its tensors on the GPU, ready to run.

    Args:
        trt: TensorRT's module.
        cupy: CuPy's module.
        logger: Hears what TensorRT says.
        plan: The serialized engine.

    Raises:
        StepError: the engine does not load here, reads tensors on the CPU, or has outputs whose
            shape depends on the data.
    """

    def __init__(self, trt: Any, cupy: Any, logger: Any, plan: bytes) -> None:
        self._trt, self._cupy = trt, cupy
        self._runtime = trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise StepError(
                "TensorRT cannot load the engine on this GPU",
                remedy="build for this GPU and with this version of TensorRT",
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise StepError("TensorRT could not make an execution context: is memory left?")
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._buffers = [self._bind(name) for name in self._names()]

    def _names(self) -> list[str]:
        """Return the engine's tensors, inputs first: shapes of outputs follow from theirs."""
        engine, mode = self._engine, self._trt.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return sorted(names, key=lambda name: engine.get_tensor_mode(name) != mode.INPUT)

    def _bind(self, name: str) -> Any:
        engine, context = self._engine, self._context
        if engine.get_tensor_location(name) == self._trt.TensorLocation.HOST:
            raise StepError(f"the engine reads {name!r} on the CPU, which cannot be timed yet")
        if engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT:
            _, opt, _ = engine.get_tensor_profile_shape(name, 0)
            context.set_input_shape(name, opt)
        shape = tuple(context.get_tensor_shape(name))
        if min(shape, default=1) < 0:
            raise StepError(f"the shape of {name!r} depends on the data: it cannot be timed yet")
        # Zeros: as index they are within any table, and times do not depend on values.
        size = _bytes(shape, engine.get_tensor_dtype(name).itemsize)
        buffer = self._cupy.zeros(max(1, size), "uint8")
        context.set_tensor_address(name, buffer.data.ptr)
        return buffer

    def time(self, runs: int, warmup: int, *, graph: bool) -> list[float]:
        """Return the milliseconds of each run on the GPU, warm-up included."""
        launch = self._captured() if graph else self._launch
        start, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        times = []
        for _ in range(warmup + runs):
            start.record(self._stream)
            launch()
            end.record(self._stream)
            end.synchronize()
            times.append(float(self._cupy.cuda.get_elapsed_time(start, end)))
        return times

    def time_layers(self) -> list[list[Any]]:
        """Return name and milliseconds of each layer, the medians of :data:`PROFILED` runs."""
        profiler = _profiler(self._trt)
        self._context.profiler = profiler
        for _ in range(1 + PROFILED):
            self._launch()
            self._stream.synchronize()
        return [[name, _median(times[1:] or times)] for name, times in profiler.times.items()]

    def _launch(self) -> None:
        if not self._context.execute_async_v3(self._stream.ptr):
            raise StepError("TensorRT failed while running the engine")

    def _captured(self) -> Callable[[], None]:
        self._launch()  # what TensorRT sets up at the first run must not be captured
        self._stream.synchronize()
        with self._stream:
            self._stream.begin_capture()
            self._launch()
            graph = self._stream.end_capture()

        def launch() -> None:
            graph.launch(self._stream)

        return launch


def _bytes(shape: Sequence[int], item: float) -> int:
    return math.ceil(math.prod(shape) * item)  # 0.5 bytes for 4 bits


def _median(times: Sequence[float]) -> float:
    ordered = sorted(times)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _profiler(trt: Any) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]  # TensorRT has no types
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: dict[str, list[float]] = {}

        def report_layer_time(self, name: str, milliseconds: float) -> None:
            self.times.setdefault(name, []).append(milliseconds)

    return Profiler()
