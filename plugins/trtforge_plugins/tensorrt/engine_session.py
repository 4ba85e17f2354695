"""Runs an engine: buffers on both sides, copies, profiles, CUDA graphs.

Shapes that stay the same cost nothing again: buffers are kept, and from the third run on one CUDA
graph replays the engine (the first run of a shape is not recorded, since TensorRT then updates its
own state).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from trtforge import DataError, StepError
from trtforge.runtime.session import Tensor, on_host
from trtforge_plugins.tensorrt.device import Buffer, Bytes, Device
from trtforge_plugins.tensorrt.loaded_engine import IoTensor, LoadedEngine, Shape

_NAMES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


class EngineSession:
    """An engine on a GPU, as :class:`trtforge.runtime.session.InferenceSession` has it."""

    def __init__(
        self, engine: LoadedEngine, device: Device, flavor: str, *, cuda_graph: bool
    ) -> None:
        self._engine = engine
        self._device = device
        self.title = f"{_NAMES.get(flavor, flavor)} {engine.version}"
        self._inputs = {each.name: each for each in engine.tensors if each.is_input}
        self._outputs = {each.name: each for each in engine.tensors if not each.is_input}
        self.inputs = tuple(map(_public, self._inputs.values()))
        self.outputs = tuple(map(_public, self._outputs.values()))
        with device.active():
            self._own_stream = device.new_stream()
        self._buffers: dict[str, Buffer] = {}
        self._pinned: dict[str, Bytes] = {}
        self._host: dict[str, np.ndarray[Any, np.dtype[Any]]] = {}
        self._shapes: dict[str, Shape] = {}
        self._profile = 0
        self._state: object = None
        self._graph = _Graph(wanted=cuda_graph)

    def run(
        self, feed: Mapping[str, Any], *, on_device: bool = False, stream: object = None
    ) -> dict[str, Any]:
        """Return the outputs by name; see the protocol.

        Raises:
            DataError: an input is missing, unknown, or of another type or shape.
            StepError: TensorRT failed.
        """
        where = self._own_stream if stream is None else handle_of(stream)
        try:
            with self._device.active():
                found = self._computed(feed, where, on_device=on_device)
                if stream is None or not on_device:
                    self._device.synchronize(where)
        except (RuntimeError, MemoryError) as error:  # as CuPy says what CUDA says
            self._state = None
            raise StepError(
                f"the GPU failed: {error}", remedy="free GPU memory, or load the model again"
            ) from error
        if on_device:
            return found
        # Pinned buffers are used again by the next run.
        return {name: np.array(array) for name, array in found.items()}

    def _computed(self, feed: Mapping[str, Any], stream: int, *, on_device: bool) -> dict[str, Any]:
        taken = self._taken(feed, stream)
        self._prepare(taken, stream)
        for name, array in taken.items():
            if name in self._buffers:
                array.put(self._device, self._buffers[name], self._staging(name), stream)
        self._execute(stream)
        return self._results(stream, on_device=on_device)

    def close(self) -> None:
        """Give back all memory."""
        self._graph.drop()
        self._buffers.clear()
        self._pinned.clear()
        self._engine.close()

    def _taken(self, feed: Mapping[str, Any], stream: int) -> dict[str, _Given]:
        if feed.keys() != self._inputs.keys():
            raise DataError(
                f"the engine takes {', '.join(self._inputs)}; given: {', '.join(feed) or 'nothing'}"
            )
        taken: dict[str, _Given] = {}
        for name, wanted in self._inputs.items():
            array = feed[name]
            if self._device.holds(array) and not wanted.on_host:
                given = _Given(*self._device.take(array, stream))
            else:
                given = _Given.of_host(array)
            _refuse_other_kind(wanted, given)
            taken[name] = given
        return taken

    def _prepare(self, taken: Mapping[str, _Given], stream: int) -> None:
        """Set profile, shapes and addresses, unless all is as it was in the run before."""
        state = {name: self._state_of(name, given) for name, given in taken.items()}
        if state == self._state:
            return
        self._state = None  # until all of it is set
        self._graph.drop()
        self._choose_profile(taken, stream)
        for name, given in taken.items():
            if self._inputs[name].on_host:
                self._host[name] = np.ascontiguousarray(given.host)
                self._engine.bind(name, self._host[name].ctypes.data)
            else:
                self._engine.set_shape(name, given.shape)
                self._engine.bind(name, self._room(name, given.size).address)
        self._shapes = self._engine.output_shapes()
        for name, shape in self._shapes.items():
            self._bind_output(self._outputs[name], shape)
        self._state = state

    def _state_of(self, name: str, given: _Given) -> tuple[object, ...]:
        values = given.host.tobytes() if self._inputs[name].on_host else b""
        return given.shape, values

    def _choose_profile(self, taken: Mapping[str, _Given], stream: int) -> None:
        ranged = {name: each for name, each in self._inputs.items() if each.ranges}
        order = sorted(range(self._engine.profiles), key=lambda number: number != self._profile)
        for number in order:
            ranges = {name: each.ranges[number] for name, each in ranged.items()}
            if all(_within(taken[name].shape, *limits) for name, limits in ranges.items()):
                if number != self._profile:
                    self._engine.use_profile(number, stream)
                    self._profile = number
                return
        raise DataError(
            "no optimization profile of the engine takes these shapes: "
            + "; ".join(_explained(each, taken[name].shape) for name, each in ranged.items()),
            remedy="give other shapes, or build the engine for these (`shapes` of the recipe)",
        )

    def _bind_output(self, tensor: IoTensor, shape: Shape) -> None:
        if tensor.on_host:
            self._host[tensor.name] = np.empty(shape, tensor.dtype)
            self._engine.bind(tensor.name, self._host[tensor.name].ctypes.data)
        elif -1 in shape:
            self._graph.forbid()  # memory is taken while it runs
            self._engine.allocate_with(tensor.name, self._allocate, self._notify)
        else:
            size = math.prod(shape) * tensor.dtype.itemsize
            self._engine.bind(tensor.name, self._room(tensor.name, size).address)

    def _allocate(self, name: str, size: int) -> int:
        return self._room(name, size).address

    def _notify(self, name: str, shape: Shape) -> None:
        self._shapes[name] = shape

    def _room(self, name: str, size: int) -> Buffer:
        """Return the buffer of an input or output, a larger one where it has become too small."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name] = self._device.buffer(size)
        return buffer

    def _staging(self, name: str) -> Bytes:
        """Return pinned memory as large as the buffer of an input or output."""
        size = self._buffers[name].size
        pinned = self._pinned.get(name)
        if pinned is None or pinned.nbytes < size:
            pinned = self._pinned[name] = self._device.pinned(size)
        return pinned

    def _execute(self, stream: int) -> None:
        if self._graph.ready is not None:
            self._device.launch(self._graph.ready, stream)
        elif self._graph.is_due and stream == self._own_stream:
            self._graph.ready = self._captured(stream)
        else:
            self._engine.enqueue(stream)
            self._graph.runs += 1

    def _captured(self, stream: int) -> Any:
        """Return the engine's work as a CUDA graph, after running it; None if that cannot be."""
        graph = None
        try:
            self._device.begin_capture(stream)
            try:
                self._engine.enqueue(stream)
            finally:
                graph = self._device.end_capture(stream)
        except (StepError, RuntimeError):  # some layers cannot be captured; CuPy's are RuntimeError
            self._graph.forbid()
            self._engine.enqueue(stream)
            return None
        self._device.launch(graph, stream)
        return graph

    def _results(self, stream: int, *, on_device: bool) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, tensor in self._outputs.items():
            shape = self._shapes[name]
            if tensor.on_host:
                found[name] = self._host[name]
            elif on_device:
                found[name] = self._device.give(self._buffers[name], tensor.dtype, shape, stream)
            else:
                size = math.prod(shape) * tensor.dtype.itemsize
                raw = self._staging(name)[:size]
                self._device.download(raw, self._buffers[name], stream)
                found[name] = raw.view(tensor.dtype).reshape(shape)
        return found


class _Graph:
    """The CUDA graph of the shapes in use, if there may be one."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._allowed = wanted
        self.ready: Any = None
        self.runs = 0
        """Runs with these shapes."""

    @property
    def is_due(self) -> bool:
        """Whether to record now."""
        return self._allowed and self.runs > 0

    def forbid(self) -> None:
        """Record nothing for these shapes."""
        self._allowed = False

    def drop(self) -> None:
        """Forget the graph: shapes or addresses change."""
        self._allowed = self._wanted
        self.ready = None
        self.runs = 0


class _Given:
    """One input of a run: on the GPU, or in main memory."""

    def __init__(self, address: int, dtype: np.dtype[Any], shape: Shape, held: Any) -> None:
        self.address = address
        self.dtype = dtype
        self.shape = shape
        self.held = held
        """What keeps the memory alive; the array itself in main memory."""

    @classmethod
    def of_host(cls, array: Any) -> _Given:
        plain = on_host(array)
        return cls(0, plain.dtype, plain.shape, plain)

    @property
    def host(self) -> np.ndarray[Any, np.dtype[Any]]:
        """The array in main memory."""
        array: np.ndarray[Any, np.dtype[Any]] = self.held
        return array

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def put(self, device: Device, target: Buffer, staging: Bytes, stream: int) -> None:
        """Copy it into the engine's buffer, from main memory by way of pinned memory."""
        if self.address:
            device.copy(target, self.address, self.size, stream)
            return
        staged = staging[: self.size]
        np.copyto(staged.view(self.dtype).reshape(self.shape), self.host)
        device.upload(target, staged, stream)


def handle_of(stream: Any) -> int:
    """Return CUDA's handle of a stream: of CuPy (``ptr``), PyTorch (``cuda_stream``), a number."""
    for name in ("ptr", "cuda_stream"):
        if hasattr(stream, name):
            return int(getattr(stream, name))
    return int(stream)


def _public(tensor: IoTensor) -> Tensor:
    return Tensor(tensor.name, tensor.dtype, tensor.shape)


def _refuse_other_kind(wanted: IoTensor, given: _Given) -> None:
    if given.dtype != wanted.dtype:
        raise DataError(f"input {wanted.name!r} is {given.dtype} instead of {wanted.dtype}")
    fits = len(given.shape) == len(wanted.shape) and all(
        there in (-1, here) for here, there in zip(given.shape, wanted.shape, strict=True)
    )
    if not fits:
        raise DataError(
            f"input {wanted.name!r} has shape {given.shape} instead of {_public(wanted).text}"
        )


def _within(shape: Shape, low: Shape, _usual: Shape, high: Shape) -> bool:
    return all(a <= dim <= b for a, dim, b in zip(low, shape, high, strict=True))


def _explained(tensor: IoTensor, shape: Shape) -> str:
    ranges = " or ".join(f"{low} to {high}" for low, _, high in tensor.ranges)
    return f"{tensor.name!r} has {shape}, and the engine takes {ranges}"
