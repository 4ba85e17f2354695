"""CustomOp: one declaration of an operator that ONNX or TensorRT does not have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtforge.artifacts import Array

Shape = tuple[int, ...]
Tactic = Mapping[str, int]
"""One choice for each name in ``CustomOp.tactics``."""


@dataclass(frozen=True)
class Launch:
    """How one kernel is started: blocks, threads in a block, and scalar arguments."""

    grid: int
    block: int
    scalars: tuple[int, ...] = ()
    shared_bytes: int = 0
    kernel: str = ""
    """Which kernel of the template, where it has several: the name after ``entry_``."""


@dataclass(frozen=True)
class Port:
    """An input or output of an op."""

    name: str
    dtype: str
    """ONNX's element type, or ``T``: the type that the kernel is compiled for."""

    def type_for(self, dtype: str) -> str:
        """Return the element type where ``T`` is ``dtype``."""
        return dtype if self.dtype == "T" else self.dtype


@dataclass(frozen=True)
class Example:
    """An op with its attributes, and inputs to try it with."""

    op: CustomOp
    inputs: Sequence[Shape | Array]
    """Each input's shape, to be filled with random numbers, or its values."""
    timed: bool = False
    """Whether it is of a size worth timing: ``op bench`` takes these, ``op check`` the others."""
    atol: float = 1e-5
    """Absolute tolerance; the default is what float32 loses in sums of thousands of terms."""


@dataclass(frozen=True)
class Substitute:
    """A custom op that computes what a node of one of ONNX's operators computes."""

    op: CustomOp
    inputs: tuple[int, ...]
    """Which of the node's inputs the op takes, in its order."""
    transposed: bool = False
    """Whether the node's output, a matrix, is the transpose of the op's."""


@dataclass(frozen=True)
class CustomOp(ABC):
    """An operator; its dataclass fields are its ONNX attributes (int, float, str, bool).

    A kernel's arguments are: inputs, scalars of the launch, outputs, the counts of ``counted``
    outputs, and the workspace where the op has one.
    """

    name: ClassVar[str]
    """``domain::OpType``."""
    inputs: ClassVar[tuple[str, ...]]
    """``"x"`` has the type T; another type is written behind it: ``"indices: int64"``."""
    outputs: ClassVar[tuple[str, ...]]
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float16")
    """Element types that T may be; the kernel is compiled for each."""
    counted: ClassVar[tuple[str, ...]] = ()
    """Outputs whose first dimension depends on the data: ``shapes`` gives the most that it can be,
    and the kernel writes how many there are to an ``int*`` of its own for each of them."""
    kernel: ClassVar[str]
    """Template file beside the module: ``bias_gelu.cu.jinja``."""
    function: ClassVar[str]
    """The same computation as an ONNX function body in ONNX text, which every ONNX tool runs."""
    since: ClassVar[int] = 1
    """First opset that ``function`` can be written in."""
    until: ClassVar[int] = 99
    """Last opset in which ONNX Runtime runs ``function``; ``check_op`` tries no later ones."""
    tactics: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    """What may be tuned: constants of the template by name, with their choices."""

    @abstractmethod
    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shapes of the outputs."""

    @abstractmethod
    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> Launch | tuple[Launch, ...]:
        """Return how the kernel is started for these shapes; several run one after the other."""

    @abstractmethod
    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Return what the kernel must compute, with NumPy."""

    def tactic(self, dtype: str, inputs: tuple[Shape, ...]) -> Tactic:
        """Return the choices for these shapes where nothing was tuned: the first of each."""
        del dtype, inputs
        return {name: choices[0] for name, choices in self.tactics.items()}

    def workspace(self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...]) -> int:
        """Return the bytes of scratch memory that the kernels need."""
        del inputs, outputs
        return 0

    def names(self) -> Mapping[str, object]:
        """Return what the template sees beside attributes, tactics and types."""
        return {}

    @classmethod
    def substitute(cls, node: ir.Node) -> Substitute | str | None:
        """Return how the op may stand for a node of ONNX's own operators.

        Types need no look; that is done for every op.

        Returns:
            The op and its inputs; or why this node cannot be replaced; None: it is of another
            operator.
        """
        del node
        of_another_operator: Substitute | str | None = None
        return of_another_operator

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return what ``trtforge op check`` and ``op bench`` try the op with."""
        return ()

    @property
    def domain(self) -> str:
        """The ONNX domain: the part of the name before ``::``."""
        return self.name.partition("::")[0]

    @property
    def op_type(self) -> str:
        """The ONNX operator name: the part after ``::``."""
        return self.name.partition("::")[2]

    @classmethod
    def types(cls, dtype: str) -> dict[str, str]:
        """Return the element type of each input and output where T is ``dtype``."""
        return {p.name: p.type_for(dtype) for p in (*cls.input_ports(), *cls.output_ports())}

    @classmethod
    def input_ports(cls) -> tuple[Port, ...]:
        """Return the inputs with their types."""
        return tuple(map(_port, cls.inputs))

    @classmethod
    def output_ports(cls) -> tuple[Port, ...]:
        """Return the outputs with their types."""
        return tuple(map(_port, cls.outputs))

    @classmethod
    def count_ports(cls) -> tuple[Port, ...]:
        """Return what a kernel writes behind its outputs: the lengths of the counted ones."""
        return tuple(Port(f"{name}_count", "int32") for name in cls.counted)


def _port(text: str) -> Port:
    name, _, dtype = (part.strip() for part in text.partition(":"))
    return Port(name, dtype or "T")


def ceil_div(count: int, size: int) -> int:
    """Return how many blocks of ``size`` hold ``count`` items."""
    return -(-count // size)


def launches(
    op: CustomOp, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
) -> tuple[Launch, ...]:
    """Return the launches of ``op``, one after the other."""
    found = op.launch(inputs, outputs, tactic)
    return found if isinstance(found, tuple) else (found,)


def cut_to_counts(
    op: CustomOp, outputs: Sequence[Array], counts: Sequence[int]
) -> tuple[Array, ...]:
    """Return the outputs, the counted ones without what is behind their last entry."""
    by_name = dict(zip(op.counted, counts, strict=True))
    return tuple(
        output[: by_name[port.name]] if port.name in by_name else output
        for port, output in zip(op.output_ports(), outputs, strict=True)
    )
