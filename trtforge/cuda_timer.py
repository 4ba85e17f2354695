"""Times kernels with CUDA's events, through CuPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from trtforge.environment import environment
from trtforge.errors import EnvironmentLacks
from trtforge.kernel_source import KernelError, numpy_type
from trtforge.kernels import compile_kernel
from trtforge.op_comparison import difference
from trtforge.op_testing import gpu_name, kernel_calls, launch_op, load_module, make_inputs
from trtforge.ops import launches
from trtforge.targets import read_target
from trtforge.tuning import Device

if TYPE_CHECKING:
    from trtforge.artifacts import Array
    from trtforge.ops import CustomOp, Example, Tactic

FLUSHED = 2**28
"""Bytes written before each run, more than the L2 cache of any GPU holds; while they are written,
the host has time to put the events and launches behind them into the stream."""
COPIED = 2**29
"""Bytes that are copied to measure the bandwidth."""
WARM_UP, RUNS = 5, 50


class CudaTimer:
    """The GPU that CUDA would use.

    Raises:
        EnvironmentLacks: there is none, or no driver, or no CuPy.
    """

    def __init__(self) -> None:
        if not gpu_name():
            raise EnvironmentLacks(
                "timing kernels needs an NVIDIA GPU with its driver, and CuPy",
                remedy="run it on such a machine; `trtforge doctor` says what is missing here",
            )
        import cupy

        self._cupy: Any = cupy
        self._flushed = cupy.empty(FLUSHED, cupy.uint8)

    @property
    def device(self) -> Device:
        """The GPU and its driver."""
        sm = int(self._cupy.cuda.Device().compute_capability)
        driver = environment().driver or str(self._cupy.cuda.runtime.driverGetVersion())
        return Device(gpu_name(), sm, driver)

    def copy_bandwidth(self) -> float:
        """Return how fast memory is copied: bytes read and written, per second."""
        source, target = (self._cupy.ones(COPIED, self._cupy.uint8) for _ in range(2))
        return 2 * COPIED / self._median(lambda: self._cupy.copyto(target, source)) * 1e3

    def milliseconds(
        self, op: CustomOp, inputs: Sequence[Array], dtype: str, tactic: Tactic
    ) -> float:
        """Return the median time of the op's kernels, with a cold L2 cache.

        Raises:
            KernelError: it does not compile or cannot be started.
        """
        shapes = tuple(array.shape for array in inputs)
        outputs = op.shapes(*shapes)
        given = [self._cupy.asarray(np.frombuffer(each.tobytes(), np.uint8)) for each in inputs]
        sizes = [
            int(np.prod(shape)) * numpy_type(port.type_for(dtype)).itemsize
            for shape, port in zip(outputs, op.output_ports(), strict=True)
        ]
        scratch = [size for size in [op.workspace(shapes, outputs)] if size]
        written = [
            self._cupy.empty(n, np.uint8) for n in (*sizes, *[4] * len(op.counted), *scratch)
        ]
        target = read_target(self._cupy.cuda.Device().compute_capability)
        kernel = compile_kernel(op, dtype, target, tactic=tactic)
        started = launches(op, shapes, outputs, tactic)
        try:
            calls = kernel_calls(kernel, load_module(kernel.cubin), started, given, written)
            return self._median(lambda: [call() for call in calls])
        except self._cupy.cuda.driver.CUDADriverError as error:
            raise KernelError(
                f"{op.name} with {dict(tactic)} cannot be started: {error}"
            ) from error

    def check(self, example: Example, dtype: str, tactic: Tactic) -> str:
        """Return how the kernel differs from the reference at an example; empty: it does not."""
        op = example.op
        inputs = make_inputs(op, example.inputs, dtype, np.random.default_rng(0))
        got = launch_op(op, inputs, dtype, tactic)
        return difference(
            f"{op.name} with {dict(tactic)}", op.reference(*inputs), got, example.atol
        )

    def _median(self, run: Callable[[], object]) -> float:
        cuda = self._cupy.cuda
        for _ in range(WARM_UP):
            run()
        times = []
        for _ in range(RUNS):
            self._flushed.fill(0)
            start, end = cuda.Event(), cuda.Event()
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(float(cuda.get_elapsed_time(start, end)))
        return median(times)
