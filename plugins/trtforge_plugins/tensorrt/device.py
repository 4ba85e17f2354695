"""What running an engine needs of a GPU; ``cuda_device`` is the real one, tests have another."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Buffer(Protocol):
    """Memory on the GPU."""

    @property
    def address(self) -> int:
        """Where it begins."""

    @property
    def size(self) -> int:
        """Bytes."""


class Device(Protocol):
    """One GPU. Streams are CUDA's own handles, as numbers; copies are in a stream's order."""

    def active(self) -> AbstractContextManager[object]:
        """Make it the current GPU of this thread."""

    def new_stream(self) -> int:
        """Return a stream of its own, which waits for no other."""

    def buffer(self, size: int) -> Buffer:
        """Return memory on the GPU of ``size`` bytes at least."""

    def pinned(self, size: int) -> Bytes:
        """Return main memory that the GPU copies from and to by itself."""

    def upload(self, target: Buffer, source: Bytes, stream: int) -> None:
        """Copy from main memory."""

    def download(self, target: Bytes, source: Buffer, stream: int) -> None:
        """Copy to main memory."""

    def holds(self, array: object) -> bool:
        """Whether an array of any library lies on a GPU."""

    def take(self, array: Any, stream: int) -> tuple[int, np.dtype[Any], tuple[int, ...], Any]:
        """Return address, type and shape of an array on the GPU, and what keeps it alive.

        ``stream`` waits for what made it.
        """

    def copy(self, target: Buffer, address: int, size: int, stream: int) -> None:
        """Copy within the GPU."""

    def give(
        self, source: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], stream: int
    ) -> Any:
        """Return a new array on the GPU with the content of a buffer."""

    def begin_capture(self, stream: int) -> None:
        """Record what the stream is given, rather than do it."""

    def end_capture(self, stream: int) -> Any:
        """Return the recorded CUDA graph."""

    def launch(self, graph: Any, stream: int) -> None:
        """Do what a graph has recorded."""

    def synchronize(self, stream: int) -> None:
        """Wait for a stream."""
