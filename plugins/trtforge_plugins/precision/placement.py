"""Which tensors are quantized: one decision, shared by every calibrator and by ``insert-qdq``.

The rules follow what TensorRT turns into INT8 and FP8 kernels, read from built engines: the
activation and the constant weight of Conv, Gemm and MatMul, and the branch that a residual Add
takes past the convolutions. Biases and results stay in high precision (TensorRT developer guide,
"Explicit Quantization").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from types import MappingProxyType

import onnx_ir as ir

from trtforge.graph import constant, graphs, is_op, label

MIN_CHANNELS = 16
"""Matrix products with a smaller side than this gain nothing from 8-bit tensor cores."""
MAX_FP8_KERNEL = 32
"""Kernel positions of an FP8 convolution (TensorRT release notes, known limitations): 5x5 fits."""


@dataclass(frozen=True)
class Point:
    """One node to quantize, and which of its inputs."""

    node: ir.Node
    rule: str
    activation: int
    """Index of the input that is computed at run time."""
    weight: int | None = None
    """Index of the constant input."""
    axis: int = 0
    """Axis of the weight that has a scale per entry: its output channels."""

    @property
    def tensor(self) -> ir.Value:
        """The activation."""
        return _present(self.node.inputs[self.activation])

    @property
    def constant(self) -> ir.Value | None:
        """The weight, where there is one."""
        return None if self.weight is None else _present(self.node.inputs[self.weight])


def _present(value: ir.Value | None) -> ir.Value:
    if value is None:  # a placement names only inputs that are there
        raise AssertionError("the input is missing")
    return value


@dataclass(frozen=True)
class Placement:
    """Every node to quantize, in graph order, and why the other candidates are left out."""

    points: tuple[Point, ...]
    refused: tuple[tuple[ir.Node, str], ...]
    unmatched: tuple[str, ...]
    """Patterns of ``skip`` that match no candidate."""

    @property
    def tensors(self) -> tuple[ir.Value, ...]:
        """The activations that need a range, each once."""
        return tuple(dict.fromkeys(point.tensor for point in self.points))


def place(model: ir.Model, skip: Sequence[str] = (), dtype: str = "int8") -> Placement:
    """Decide which inputs of which nodes are quantized.

    Args:
        model: The model; it is only read.
        skip: Glob patterns of node names or operators to leave alone.
        dtype: ``int8``, whose placement holds all others, or ``float8e4m3fn``.
    """
    points: list[Point] = []
    refused: list[tuple[ir.Node, str]] = []
    used: set[str] = set()
    for node in _candidates(model):
        patterns = [pattern for pattern in skip if matches(node, pattern)]
        used.update(patterns)
        if patterns:
            answer: Point | str = f"left out by skip pattern {patterns[0]!r}"
        elif node.graph is not model.graph:
            answer = "it is inside a subgraph or function, where no range is measured"
        else:
            answer = _RULES[node.op_type](node)
        if isinstance(answer, Point) and dtype == "float8e4m3fn" and _is_wide(answer):
            answer = f"its kernel is larger than {MAX_FP8_KERNEL}: TensorRT would run it in float"
        if isinstance(answer, str):
            refused.append((node, answer))
        else:
            points.append(answer)
    points += _residuals(model.graph, points, skip)
    return Placement(
        tuple(points), tuple(refused), tuple(pattern for pattern in skip if pattern not in used)
    )


def matches(node: ir.Node, pattern: str) -> bool:
    """Whether the glob ``pattern`` names the node or its operator."""
    return fnmatchcase(label(node), pattern) or fnmatchcase(node.op_type, pattern)


def _candidates(model: ir.Model) -> Iterator[ir.Node]:
    for graph in graphs(model):
        yield from (node for node in graph if is_op(node, *_RULES))


def _conv(node: ir.Node) -> Point | str:
    return _weighted(node, "conv", axis=0, rank=None)


def _gemm(node: ir.Node) -> Point | str:
    if node.attributes.get_int("transA", 0):
        return "transA is set: TensorRT has no 8-bit kernel for a transposed activation"
    return _weighted(node, "matrix-product", axis=0 if node.attributes.get_int("transB", 0) else 1)


def _matmul(node: ir.Node) -> Point | str:
    return _weighted(node, "matrix-product", axis=1)


def _is_wide(point: Point) -> bool:
    weight = constant(point.constant)
    return weight is not None and prod(weight.shape[2:]) > MAX_FP8_KERNEL


def _conv_transpose(_: ir.Node) -> Point | str:
    return "TensorRT dequantizes the weight of a quantized ConvTranspose and runs it in float"


_Rule = Callable[[ir.Node], Point | str]
_RULES: Mapping[str, _Rule] = MappingProxyType(
    {"Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm, "MatMul": _matmul}
)


def _weighted(node: ir.Node, rule: str, axis: int, rank: int | None = 2) -> Point | str:
    """Return the point of a node with a run-time input 0 and a constant input 1, or why not."""
    activation, weight = node.inputs[0], constant(node.inputs[1])
    if weight is None:
        return "its second input is no constant"
    if activation is None or constant(activation) is not None:
        return "its first input is a constant"
    if rank is not None and weight.ndim != rank:
        return f"its weight has {weight.ndim} dimensions; a matrix is expected"
    if rank is not None and min(weight.shape) < MIN_CHANNELS:
        rows, columns = weight.shape
        return f"its weight is {rows}x{columns}: a side is smaller than {MIN_CHANNELS}"
    if weight.size == 0:
        return "its weight is empty"
    return Point(node, rule, activation=0, weight=1, axis=axis)


def _residuals(graph: ir.Graph, points: Sequence[Point], skip: Sequence[str]) -> Iterator[Point]:
    """Yield the Adds that join a quantized convolution and another branch.

    The branch gets Q/DQ; the convolution's own result does not, so that TensorRT can add it to the
    accumulator before it rounds.
    """
    order = {node: index for index, node in enumerate(graph)}
    convolutions = {point.node for point in points if point.rule == "conv"}
    for node in order:
        if not is_op(node, "Add") or any(matches(node, pattern) for pattern in skip):
            continue
        if any(value is None or constant(value) is not None for value in node.inputs):
            continue
        fused = [
            (order[producer], index)
            for index, value in enumerate(node.inputs)
            if value is not None
            and (producer := value.producer()) in convolutions
            and producer is not None
            and len(value.uses()) == 1
        ]
        if fused and not _broadcasts(node):
            _, last = max(fused)
            yield Point(node, "residual", activation=1 - last)


def _broadcasts(node: ir.Node) -> bool:
    shapes = [value.shape for value in node.inputs if value is not None]
    return None not in shapes and len({str(shape) for shape in shapes}) > 1
