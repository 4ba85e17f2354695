"""An engine in TensorRT's runtime: every call of TensorRT that running one needs.

Like ``adapter``, this file holds only names that all of TensorRT 10, 11 and TensorRT-RTX have;
``tests/test_tensorrt_api.py`` watches it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from trtforge import EnvironmentLacks, StepError
from trtforge_plugins.tensorrt.adapter import logger
from trtforge_plugins.tensorrt.engine_validity import refuse_invalid
from trtforge_plugins.tensorrt.events import Listener

TYPES: Mapping[str, np.dtype[Any]] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP8": np.dtype(ml_dtypes.float8_e4m3fn),
    "INT8": np.dtype(np.int8),
    "UINT8": np.dtype(np.uint8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
}
"""NumPy's types by TensorRT's names; inputs and outputs have no other."""

Shape = tuple[int, ...]
Allocate = Callable[[str, int], int]
"""Name of an output and its bytes to the address of memory for it."""
Notify = Callable[[str, Shape], None]


@dataclass(frozen=True)
class IoTensor:
    """An input or output of an engine."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape
    """-1 is open."""
    is_input: bool
    on_host: bool
    """Whether TensorRT wants it in main memory: values that decide shapes."""
    ranges: tuple[tuple[Shape, Shape, Shape], ...] = ()
    """Smallest, usual and largest shape for each optimization profile; none on the host."""


class LoadedEngine:
    """A deserialized engine with one execution context.

    Args:
        trt: What :func:`.adapter.load` returned.
        listener: Hears everything that TensorRT says.
        plan: The engine's bytes.
        host_code: Whether code in the engine may run: its own runtime, if it is version compatible.

    Raises:
        StepError: TensorRT refuses the engine; its own words are in the message.
    """

    def __init__(self, trt: Any, listener: Listener, plan: bytes, *, host_code: bool) -> None:
        self._trt = trt
        self._listener = listener
        self._logger = logger(trt, listener)  # must outlive the runtime
        runtime = trt.Runtime(self._logger)
        if host_code:
            runtime.engine_host_code_allowed = True
        refuse_invalid(trt, runtime, plan, self._listener.errors)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise StepError(f"TensorRT refuses the engine: {self._words()}")
        context = engine.create_execution_context()
        if context is None:
            raise StepError(f"TensorRT cannot make an execution context: {self._words()}")
        self._runtime = runtime
        self._engine = engine
        self._context = context
        self._allocators: dict[str, Any] = {}
        self.version = str(trt.__version__)
        self.profiles = int(engine.num_optimization_profiles)
        self.tensors = tuple(self._tensor(i) for i in range(engine.num_io_tensors))

    def _words(self) -> str:
        return "; ".join(self._listener.errors) or "it gives no reason"

    def _tensor(self, index: int) -> IoTensor:
        trt, engine = self._trt, self._engine
        name = str(engine.get_tensor_name(index))
        is_input = bool(engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT)
        on_host = bool(engine.get_tensor_location(name) == trt.TensorLocation.HOST)
        dtype = TYPES.get(str(engine.get_tensor_dtype(name).name))
        if dtype is None:
            kind = engine.get_tensor_dtype(name).name
            raise EnvironmentLacks(
                f"{name!r} has TensorRT's type {kind}, which NumPy has no whole bytes for",
                remedy="let the model's inputs and outputs have another type",
            )
        ranges: list[tuple[Shape, Shape, Shape]] = []
        if is_input and not on_host:
            for number in range(engine.num_optimization_profiles):
                low, usual, high = engine.get_tensor_profile_shape(name, number)
                ranges.append((tuple(low), tuple(usual), tuple(high)))
        return IoTensor(
            name, dtype, tuple(engine.get_tensor_shape(name)), is_input, on_host, tuple(ranges)
        )

    def use_profile(self, number: int, stream: int) -> None:
        """Take an optimization profile; later work in ``stream`` sees it."""
        context = self._context
        self._accept(context.set_optimization_profile_async(number, stream), f"profile {number}")

    def set_shape(self, name: str, shape: Shape) -> None:
        """Set the shape of an input."""
        context = self._context
        self._accept(context.set_input_shape(name, shape), f"shape {shape} of {name!r}")

    def bind(self, name: str, address: int) -> None:
        """Say where an input or output lies."""
        context = self._context
        self._accept(context.set_tensor_address(name, address), f"the address of {name!r}")

    def output_shapes(self) -> dict[str, Shape]:
        """Return the shapes of all outputs for the inputs that were set; -1 depends on the data.

        Raises:
            StepError: an input was not set.
        """
        context = self._context
        missing = list(context.infer_shapes())
        if missing:
            raise StepError(f"TensorRT lacks shape or values of {', '.join(missing)}")
        return {
            each.name: tuple(context.get_tensor_shape(each.name))
            for each in self.tensors
            if not each.is_input
        }

    def allocate_with(self, name: str, allocate: Allocate, notify: Notify) -> None:
        """Let TensorRT ask for the memory of an output while it runs, and tell its shape."""
        context = self._context
        allocator = _output_allocator(self._trt, allocate, notify)
        self._allocators[name] = allocator  # TensorRT keeps no reference
        self._accept(context.set_output_allocator(name, allocator), f"the allocator of {name!r}")

    def enqueue(self, stream: int) -> None:
        """Run in ``stream``."""
        context = self._context
        self._accept(context.execute_async_v3(stream), "to run")

    def close(self) -> None:
        """Free everything, in the order that TensorRT wants."""
        for name in ("_context", "_engine", "_runtime"):
            setattr(self, name, None)

    def _accept(self, accepted: bool, what: str) -> None:  # noqa: FBT001  # TensorRT's answer
        if not accepted:
            raise StepError(f"TensorRT refuses {what}: {self._words()}")


def _output_allocator(trt: Any, allocate: Allocate, notify: Notify) -> Any:
    class OutputAllocator(trt.IOutputAllocator):  # type: ignore[misc]  # TensorRT has no types
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)

        def reallocate_output_async(
            self, tensor_name: str, _memory: int, size: int, _alignment: int, _stream: int
        ) -> int:
            return allocate(tensor_name, size)

        def reallocate_output(
            self, tensor_name: str, _memory: int, size: int, _alignment: int
        ) -> int:
            return allocate(tensor_name, size)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            notify(tensor_name, tuple(shape))

    return OutputAllocator()
