"""A GPU through CuPy: memory, streams, copies and CUDA graphs."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtforge import DataError, EnvironmentLacks
from trtforge.environment import Gpu
from trtforge_plugins.tensorrt.device import Buffer, Bytes


@dataclass(frozen=True)
class _CudaBuffer:
    pointer: Any
    address: int
    size: int


class CudaDevice:
    """One GPU.

    Raises:
        EnvironmentLacks: CuPy is not installed, or CUDA does not show this GPU.
    """

    def __init__(self, gpu: Gpu) -> None:
        try:
            import cupy
        except ImportError as error:
            raise EnvironmentLacks(
                "engines run with buffers of CuPy, which is not installed",
                remedy="pip install 'trtforge[cu13]'",
            ) from error
        self._cupy = cupy
        self._device = cupy.cuda.Device(self._number(gpu))
        self._streams: dict[int, Any] = {}

    def _number(self, gpu: Gpu) -> int:
        """Return CUDA's number of a GPU that NVML named: they count in different orders."""
        runtime = self._cupy.cuda.runtime
        try:
            return int(runtime.deviceGetByPCIBusId(gpu.pci)) if gpu.pci else 0
        except runtime.CUDARuntimeError as error:
            raise EnvironmentLacks(
                f"CUDA does not show {gpu.name}: {error}",
                remedy="unset CUDA_VISIBLE_DEVICES, or choose another GPU",
            ) from error

    def active(self) -> AbstractContextManager[object]:
        """Make it the current GPU of this thread."""
        device: AbstractContextManager[object] = self._device
        return device

    def new_stream(self) -> int:
        """Return a stream of its own, which waits for no other."""
        stream = self._cupy.cuda.Stream(non_blocking=True)
        self._streams[int(stream.ptr)] = stream
        return int(stream.ptr)

    def _stream(self, handle: int) -> Any:
        return self._streams.get(handle) or self._cupy.cuda.ExternalStream(handle)

    def buffer(self, size: int) -> Buffer:
        """Return memory on the GPU of ``size`` bytes at least."""
        pointer = self._cupy.cuda.alloc(max(size, 1))
        return _CudaBuffer(pointer, int(pointer.ptr), size)

    def pinned(self, size: int) -> Bytes:
        """Return main memory that the GPU copies from and to by itself."""
        memory = self._cupy.cuda.alloc_pinned_memory(max(size, 1))
        return np.frombuffer(memory, np.uint8, size)

    def upload(self, target: Buffer, source: Bytes, stream: int) -> None:
        """Copy from main memory."""
        if source.nbytes:
            kind = self._cupy.cuda.runtime.memcpyHostToDevice
            address = source.ctypes.data
            self._cupy.cuda.runtime.memcpyAsync(
                target.address, address, source.nbytes, kind, stream
            )

    def download(self, target: Bytes, source: Buffer, stream: int) -> None:
        """Copy to main memory."""
        if target.nbytes:
            kind = self._cupy.cuda.runtime.memcpyDeviceToHost
            address = target.ctypes.data
            self._cupy.cuda.runtime.memcpyAsync(
                address, source.address, target.nbytes, kind, stream
            )

    def holds(self, array: object) -> bool:
        """Whether an array of any library lies on a GPU."""
        if hasattr(array, "__cuda_array_interface__"):
            return True
        where = getattr(array, "__dlpack_device__", None)
        return where is not None and int(where()[0]) == 2  # kDLCUDA of dlpack.h

    def take(self, array: Any, stream: int) -> tuple[int, np.dtype[Any], tuple[int, ...], Any]:
        """Return address, type and shape of an array on the GPU, and what keeps it alive."""
        own = self._stream(stream)
        own.wait_event(self._cupy.cuda.get_current_stream().record())
        with own:  # DLPack also lets this stream wait for the one that made the array
            held = self._cupy.ascontiguousarray(self._own_array(array))
        return int(held.data.ptr), np.dtype(held.dtype), tuple(held.shape), held

    def _own_array(self, array: Any) -> Any:
        try:
            if isinstance(array, self._cupy.ndarray) or not hasattr(array, "__dlpack__"):
                return self._cupy.asarray(array)
            return self._cupy.from_dlpack(array)
        except (BufferError, TypeError, ValueError) as error:
            name = type(array).__name__
            raise DataError(f"{name} is no array that CuPy takes: {error}") from error

    def copy(self, target: Buffer, address: int, size: int, stream: int) -> None:
        """Copy within the GPU, or from another one."""
        if size:
            kind = self._cupy.cuda.runtime.memcpyDefault
            self._cupy.cuda.runtime.memcpyAsync(target.address, address, size, kind, stream)

    def give(
        self, source: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], stream: int
    ) -> Any:
        """Return a new array on the GPU with the content of a buffer."""
        with self._stream(stream):
            fresh = self._cupy.empty(shape, dtype)
        kind = self._cupy.cuda.runtime.memcpyDeviceToDevice
        size = math.prod(shape) * dtype.itemsize
        if size:
            self._cupy.cuda.runtime.memcpyAsync(
                int(fresh.data.ptr), source.address, size, kind, stream
            )
        return fresh

    def begin_capture(self, stream: int) -> None:
        """Record what the stream is given, rather than do it."""
        self._stream(stream).begin_capture()

    def end_capture(self, stream: int) -> Any:
        """Return the recorded CUDA graph."""
        return self._stream(stream).end_capture()

    def launch(self, graph: Any, stream: int) -> None:
        """Do what a graph has recorded."""
        graph.launch(self._stream(stream))

    def synchronize(self, stream: int) -> None:
        """Wait for a stream."""
        self._cupy.cuda.runtime.streamSynchronize(stream)
