"""CustomOp: one declaration of an operator that ONNX or TensorRT does not have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from trtforge.artifacts import Array

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Launch:
    """How a kernel is started: blocks, threads in a block, and scalar arguments."""

    grid: int
    block: int
    scalars: tuple[int, ...] = ()
    shared_bytes: int = 0


@dataclass(frozen=True)
class CustomOp(ABC):
    """An operator; its dataclass fields are its ONNX attributes (int, float, str, bool).

    The kernel argument order is: inputs, scalars of the launch, outputs.
    """

    name: ClassVar[str]
    """``domain::OpType``."""
    inputs: ClassVar[tuple[str, ...]]
    outputs: ClassVar[tuple[str, ...]]
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float16")
    """Element types that the kernel is compiled for."""
    kernel: ClassVar[str]
    """Template file beside the module: ``bias_gelu.cu.jinja``."""
    function: ClassVar[str]
    """The same computation as an ONNX function body in ONNX text, which every ONNX tool runs."""

    @abstractmethod
    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shapes of the outputs."""

    @abstractmethod
    def launch(self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...]) -> Launch:
        """Return how the kernel is started for these shapes."""

    @abstractmethod
    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Return what the kernel must compute, with NumPy."""

    @property
    def domain(self) -> str:
        """The ONNX domain: the part of the name before ``::``."""
        return self.name.partition("::")[0]

    @property
    def op_type(self) -> str:
        """The ONNX operator name: the part after ``::``."""
        return self.name.partition("::")[2]


def ceil_div(count: int, size: int) -> int:
    """Return how many blocks of ``size`` hold ``count`` items."""
    return -(-count // size)
