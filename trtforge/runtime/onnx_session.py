"""Runs the ONNX model of a bundle in ONNX Runtime."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge.errors import RequestError
from trtforge.reference import Reference, TensorSpec
from trtforge.runtime.session import Tensor, on_host

if TYPE_CHECKING:
    from trtforge.runtime.session import Feed


class OnnxSession:
    """An ONNX model in ONNX Runtime, which computes what the model says; types stay as given.

    Args:
        model: The ONNX file.
        held: What must stay as long as it runs, for example the folder of its weights.
    """

    def __init__(self, model: Path, held: ExitStack | None = None) -> None:
        self._held = held or ExitStack()
        self._reference = Reference(model)
        self.inputs = tuple(map(_tensor, self._reference.inputs))
        self.outputs = tuple(map(_tensor, self._reference.outputs))

    @property
    def title(self) -> str:
        """What runs."""
        import onnxruntime

        return f"ONNX Runtime {onnxruntime.__version__} ({self._reference.provider})"

    def run(self, feed: Feed, *, on_device: bool = False, stream: object = None) -> dict[str, Any]:
        """Return the outputs by name, as NumPy arrays.

        Raises:
            RequestError: outputs on the device, or a stream, are asked for.
        """
        if on_device or stream is not None:
            raise RequestError(
                "ONNX Runtime runs here in place of an engine, and gives NumPy arrays only",
                remedy="leave out on_device and stream",
            )
        return self._reference.run({name: on_host(array) for name, array in feed.items()})

    def close(self) -> None:
        """Give back all memory."""
        del self._reference
        self._held.close()


def _tensor(spec: TensorSpec) -> Tensor:
    dims = tuple(dim if isinstance(dim, int) else -1 for dim in spec.shape)
    return Tensor(spec.name, spec.dtype, dims)
