"""A TensorRT without a GPU: it records every call, and computes on the addresses that it was given.

``FakeDevice`` is a GPU whose memory is main memory. Both together run all of the execution path:
a wrong address, shape, stream or order gives wrong numbers, or fails as TensorRT does.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

POISON = 0xAB
"""What fresh memory holds."""


@dataclass
class FakeBuffer:
    memory: np.ndarray

    @property
    def address(self):
        return self.memory.ctypes.data

    @property
    def size(self):
        return self.memory.nbytes


@dataclass
class DeviceArray:
    """An array on the fake GPU."""

    array: np.ndarray


@dataclass
class FakeDevice:
    """A GPU in main memory; a stream is a number, and recorded work is a list of functions."""

    calls: list[tuple] = field(default_factory=list)
    recording: list[Callable] | None = None
    refuses_capture: bool = False
    is_active: bool = False

    def __post_init__(self):
        self.streams = iter(range(7, 1000))

    @contextmanager
    def active(self):
        self.is_active = True
        yield
        self.is_active = False

    def submit(self, work):
        """Do what a stream is given, or record it."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def new_stream(self):
        return next(self.streams)

    def _memory(self, size):
        assert self.is_active
        return np.full(max(size, 1), POISON, np.uint8)

    def buffer(self, size):
        self.calls.append(("buffer", size))
        return FakeBuffer(self._memory(size)[:size])

    def pinned(self, size):
        self.calls.append(("pinned", size))
        return self._memory(size)[:size]

    def upload(self, target, source, stream):
        self.calls.append(("upload", source.nbytes, stream))
        assert source.nbytes <= target.size
        target.memory[: source.nbytes] = source

    def download(self, target, source, stream):
        self.calls.append(("download", target.nbytes, stream))
        target[:] = source.memory[: target.nbytes]

    def holds(self, array):
        return isinstance(array, DeviceArray)

    def take(self, array, stream):
        self.calls.append(("take", stream))
        plain = array.array
        return plain.ctypes.data, plain.dtype, plain.shape, plain

    def copy(self, target, address, size, stream):
        self.calls.append(("copy", size, stream))
        ctypes.memmove(target.address, address, size)

    def give(self, source, dtype, shape, stream):
        self.calls.append(("give", stream))
        size = math.prod(shape) * dtype.itemsize
        return DeviceArray(source.memory[:size].view(dtype).reshape(shape).copy())

    def begin_capture(self, stream):
        self.calls.append(("begin_capture", stream))
        if self.refuses_capture:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.recording = []

    def end_capture(self, stream):
        self.calls.append(("end_capture", stream))
        work, self.recording = self.recording, None
        return work

    def launch(self, graph, stream):
        self.calls.append(("launch", stream))
        for work in graph:
            work()

    def synchronize(self, stream):
        self.calls.append(("synchronize", stream))


@dataclass
class Spec:
    """An input or output of the fake engine."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "FLOAT"
    is_input: bool = True
    on_host: bool = False
    ranges: tuple = ()


NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "INT32": np.int32}


class FakeTensorRT:
    """The module. ``compute`` maps input arrays to output arrays, by name.

    Outputs whose shape depends on the data are those that ``unknown`` names.
    """

    __version__ = "10.13.3.9"
    TensorIOMode = SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
    TensorLocation = SimpleNamespace(HOST="HOST", DEVICE="DEVICE")

    class ILogger:
        def __init__(self):
            pass

    class IOutputAllocator:
        def __init__(self):
            pass

    def __init__(self, specs, compute, device, *, profiles=1, unknown=(), refuse=""):
        self.specs = {spec.name: spec for spec in specs}
        self.compute = compute
        self.device = device
        self.profiles = profiles
        self.unknown = unknown
        self.refuse = refuse
        self.calls = []
        self.context_class = FakeContext

    def Runtime(self, logger):  # noqa: N802  # TensorRT's name
        self.calls.append(("Runtime",))
        self.logger = logger
        return FakeRuntime(self)

    def said(self, *call):
        """Record a call; the one that ``refuse`` names fails as TensorRT's do."""
        self.calls.append(call)
        if call[0] == self.refuse:
            words = f"no {call[0]} today"
            self.logger.log(SimpleNamespace(name="ERROR"), words)
            return False
        return True


class FakeRuntime:
    def __init__(self, trt):
        self.trt = trt
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan):
        assert self.trt.device.is_active
        accepted = self.trt.said("deserialize_cuda_engine", len(plan))
        return FakeEngine(self.trt) if accepted else None


class FakeEngine:
    def __init__(self, trt):
        self.trt = trt
        self.num_optimization_profiles = trt.profiles
        self.num_io_tensors = len(trt.specs)

    def _spec(self, name):
        return self.trt.specs[name]

    def get_tensor_name(self, index):
        return list(self.trt.specs)[index]

    def get_tensor_mode(self, name):
        return "INPUT" if self._spec(name).is_input else "OUTPUT"

    def get_tensor_location(self, name):
        return "HOST" if self._spec(name).on_host else "DEVICE"

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=self._spec(name).dtype)

    def get_tensor_shape(self, name):
        return self._spec(name).shape

    def get_tensor_profile_shape(self, name, number):
        return self._spec(name).ranges[number]

    def create_execution_context(self):
        accepted = self.trt.said("create_execution_context")
        return self.trt.context_class(self.trt) if accepted else None


class FakeContext:
    def __init__(self, trt):
        self.trt = trt
        self.profile = 0
        self.shapes, self.addresses, self.allocators = {}, {}, {}

    def set_optimization_profile_async(self, number, stream):
        self.profile = number
        return self.trt.said("set_optimization_profile_async", number, stream)

    def set_input_shape(self, name, shape):
        spec = self.trt.specs[name]
        low, _, high = spec.ranges[self.profile] if spec.ranges else (shape, shape, shape)
        assert all(a <= dim <= b for a, dim, b in zip(low, shape, high, strict=True))
        self.shapes[name] = shape
        return self.trt.said("set_input_shape", name, shape)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return self.trt.said("set_tensor_address", name)

    def infer_shapes(self):
        self.trt.said("infer_shapes")
        return [
            name
            for name, spec in self.trt.specs.items()
            if spec.is_input
            and ((spec.on_host and name not in self.addresses) or (
                not spec.on_host and name not in self.shapes
            ))
        ]  # fmt: skip

    def get_tensor_shape(self, name):
        if name in self.trt.unknown:
            return tuple(-1 for _ in self.trt.specs[name].shape)
        values = {
            key: self._array(key) if spec.on_host else np.zeros(self.shapes[key], NUMPY[spec.dtype])
            for key, spec in self.trt.specs.items()
            if spec.is_input
        }
        return self.trt.compute(**values)[name].shape

    def set_output_allocator(self, name, allocator):
        self.allocators[name] = allocator
        return self.trt.said("set_output_allocator", name)

    def _array(self, name):
        spec = self.trt.specs[name]
        shape = spec.shape if spec.on_host else self.shapes[name]
        size = math.prod(shape) * np.dtype(NUMPY[spec.dtype]).itemsize
        raw = ctypes.string_at(self.addresses[name], size)
        return np.frombuffer(raw, NUMPY[spec.dtype]).reshape(shape)

    def execute_async_v3(self, stream):
        accepted = self.trt.said("execute_async_v3", stream)
        if accepted:
            self.trt.device.submit(lambda: self._compute(stream))
        return accepted

    def _compute(self, stream):
        inputs = {name: self._array(name) for name, s in self.trt.specs.items() if s.is_input}
        for name, array in self.trt.compute(**inputs).items():
            if name in self.allocators and name in self.trt.unknown:
                allocate = self.allocators[name].reallocate_output_async
                self.addresses[name] = allocate(name, 0, array.nbytes, 256, stream)
                self.allocators[name].notify_shape(name, array.shape)
            data = np.ascontiguousarray(array)
            ctypes.memmove(self.addresses[name], data.ctypes.data, data.nbytes)
