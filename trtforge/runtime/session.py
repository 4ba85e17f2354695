"""What can run a model, or a part of it: an engine in TensorRT, an ONNX model in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from trtforge.errors import DataError

if TYPE_CHECKING:
    from trtforge.environment import Gpu

    Feed = Mapping[str, Any]


@dataclass(frozen=True)
class EngineFile:
    """An engine to open, checked against the manifest and this machine already."""

    data: bytes
    flavor: str
    gpu: Gpu
    """Where it shall run."""
    brings_runtime: bool = False
    """Whether it was built to be version compatible, so that it may hold code of its own."""
    trusted: bool = False
    """Whether its author is known, by a signature."""
    cuda_graph: bool = True
    """Whether runs of unchanged shapes are recorded once and replayed."""


@dataclass(frozen=True)
class Tensor:
    """An input or output."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """-1 is open."""

    @property
    def text(self) -> str:
        """The shape as people write it: ``?x3x224x224``."""
        return "x".join("?" if dim == -1 else str(dim) for dim in self.shape) or "scalar"


class InferenceSession(Protocol):
    """Something that computes named outputs from named inputs."""

    @property
    def title(self) -> str:
        """What runs, with its version: ``TensorRT-RTX 1.7.1.116``."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What it takes."""

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What it gives."""

    def run(self, feed: Feed, *, on_device: bool = False, stream: object = None) -> dict[str, Any]:
        """Return the outputs by name.

        Args:
            feed: An array for each input: NumPy, CuPy, or any with DLPack.
            on_device: Give CuPy arrays on the GPU instead of NumPy arrays.
            stream: CUDA stream to work on (a number, or an object with ``ptr`` or
                ``cuda_stream``); outputs on the device are then ready in its order. None: its own
                stream, and outputs are ready.

        Raises:
            DataError: an input is missing, unknown, or of another type or shape.
            StepError: the library failed.
        """

    def close(self) -> None:
        """Give back all memory."""


def on_host(array: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """Return an array in main memory: NumPy's as it is, others through DLPack or a copy.

    Raises:
        DataError: NumPy cannot take it: it is no array, or of a type that DLPack has and NumPy
            has not.
    """
    if isinstance(array, np.ndarray):
        return array
    try:
        if hasattr(array, "__cuda_array_interface__"):
            import cupy

            copied: np.ndarray[Any, np.dtype[Any]] = cupy.asnumpy(cupy.asarray(array))
            return copied
        return np.from_dlpack(array) if hasattr(array, "__dlpack__") else np.asarray(array)
    except (BufferError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{type(array).__name__} is no array that NumPy takes: {error}") from error
