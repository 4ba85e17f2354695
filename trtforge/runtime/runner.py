"""A model that is ready to run."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, Self

from trtforge.errors import RequestError
from trtforge.runtime.session import InferenceSession, Tensor

if TYPE_CHECKING:
    from trtforge.runtime.session import Feed


class LoadedModel:
    """The model of a bundle, ready to run. Calls from several threads take turns.

    Use it as a function, ``model(image=array)``, or in a ``with`` block, which frees its memory.
    """

    def __init__(self, session: InferenceSession, notes: tuple[str, ...] = ()) -> None:
        self._session = session
        self._lock = Lock()
        self._closed = False
        self.notes = notes
        """What the caller should know: what fits not, what was built, what runs in its place."""

    @property
    def runs_in(self) -> str:
        """What computes: ``TensorRT-RTX 1.7.1.116``, ``ONNX Runtime 1.32.0 (…)``."""
        return self._session.title

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What it takes, in the types of the model as it was given."""
        return self._session.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What it gives."""
        return self._session.outputs

    def __call__(self, **feed: Any) -> dict[str, Any]:
        """Return the outputs by name as NumPy arrays; inputs are given by name."""
        return self.run(feed)

    def run(self, feed: Feed, *, on_device: bool = False, stream: object = None) -> dict[str, Any]:
        """Return the outputs by name.

        Args:
            feed: An array for each input: NumPy, CuPy, or of any library with DLPack (PyTorch,
                JAX). Arrays on a GPU stay there.
            on_device: Give CuPy arrays on the GPU instead of NumPy arrays.
            stream: CUDA stream to work on: a number, or an object with ``ptr`` or
                ``cuda_stream``. Outputs on the device are then ready in its order only.

        Raises:
            DataError: an input is missing, unknown, or of another type or shape.
            RequestError: it was closed.
            StepError: the library failed.
        """
        with self._lock:
            if self._closed:
                raise RequestError("the model was closed", remedy="load it again")
            return self._session.run(feed, on_device=on_device, stream=stream)

    def close(self) -> None:
        """Give back the memory of engines and buffers."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
