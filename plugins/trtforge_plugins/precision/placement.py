"""Which tensors are quantized: one decision, shared by every calibrator and by ``insert-qdq``.

The rules follow what TensorRT turns into INT8 and FP8 kernels, read from built engines
(``docs/targets.md``): the activation and the constant weight of Conv, Gemm and MatMul, the branch
that a residual Add takes past the convolutions, and, where it is asked for, both operands of the
products inside attention. Biases, results, softmax and norms stay in high precision (TensorRT
developer guide, "Explicit Quantization").
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import onnx_ir as ir

from trtforge.graph import graphs, is_op, label
from trtforge_plugins.precision.data_movement import Slot, highest_slot, is_cut_for_attention
from trtforge_plugins.precision.placement_rules import CANDIDATES, Operands, operands, residuals


@dataclass(frozen=True)
class Point:
    """One node to quantize, and which of its inputs."""

    node: ir.Node
    rule: str
    activation: int
    """Index of the input that is computed at run time."""
    slot: Slot
    """The input that is given the quantized numbers: that one, or the input of a node before it
    that only moves data."""
    weight: int | None = None
    """Index of the constant input."""
    axis: int | None = 0
    """Axis of the weight that has a scale per entry, its output channels; None: one scale."""

    @property
    def tensor(self) -> ir.Value:
        """The activation, as the node reads it."""
        return _present(self.node.inputs[self.activation])

    @property
    def source(self) -> ir.Value:
        """The tensor to quantize: the same numbers, maybe before they are moved."""
        node, index = self.slot
        return _present(node.inputs[index])

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
    """A product of two activations has two."""
    refused: tuple[tuple[ir.Node, str], ...]
    unmatched: tuple[str, ...]
    """Patterns of ``skip`` that match no candidate."""

    @property
    def tensors(self) -> tuple[ir.Value, ...]:
        """The activations that need a range, each once."""
        return tuple(dict.fromkeys(point.tensor for point in self.points))


@dataclass(frozen=True)
class Wanted:
    """What a placement is made for."""

    dtype: str = "int8"
    """``int8``, whose placement holds all others, ``float8e4m3fn``, ``float4e2m1``, ``int4``."""
    skip: Sequence[str] = ()
    """Glob patterns of node names or operators to leave alone."""
    keep: Mapping[str, str] = field(default_factory=dict)
    """Names of nodes to leave alone, with the reason."""
    attention: bool = False
    """Whether products of two activations are quantized too."""
    targets: Collection[str] = ()
    """What the engine is for; convolutions of ``sm_75`` stay in float."""


def place(model: ir.Model, wanted: Wanted | None = None) -> Placement:
    """Decide which inputs of which nodes of ``model`` are quantized; it is only read."""
    wanted = wanted or Wanted()
    chosen: dict[ir.Node, Operands] = {}
    refused: list[tuple[ir.Node, str]] = []
    used: set[str] = set()
    for node in _candidates(model):
        patterns = [pattern for pattern in wanted.skip if matches(node, pattern)]
        used.update(patterns)
        if patterns:
            answer: Operands | str = f"left out by skip pattern {patterns[0]!r}"
        elif label(node) in wanted.keep:
            answer = f"kept in high precision: {wanted.keep[label(node)]}"
        elif node.graph is not model.graph:
            answer = "it is inside a subgraph or function, where no range is measured"
        else:
            turing = "sm_75" in wanted.targets
            answer = operands(node, wanted.dtype, attention=wanted.attention, turing=turing)
        if isinstance(answer, str):
            refused.append((node, answer))
        else:
            chosen[node] = answer
    left = {*wanted.keep, *(label(node) for node in model.graph if _skipped(node, wanted.skip))}
    if wanted.dtype != "float4e2m1":
        chosen |= residuals(model.graph, chosen, left)
    unmatched = tuple(pattern for pattern in wanted.skip if pattern not in used)
    return Placement(tuple(_points(chosen, wanted.dtype)), tuple(refused), unmatched)


def points_to_measure(model: ir.Model) -> tuple[Point, ...]:
    """Return the points of the largest placement, whose activations need a range.

    Results of Softmax are left out: they lie within 0 and 1.
    """
    points = place(model, Wanted(attention=True)).points
    return tuple(point for point in points if not is_op(point.tensor.producer(), "Softmax"))


def matches(node: ir.Node, pattern: str) -> bool:
    """Whether the glob ``pattern`` names the node or its operator."""
    return fnmatchcase(label(node), pattern) or fnmatchcase(node.op_type, pattern)


def _skipped(node: ir.Node, skip: Sequence[str]) -> bool:
    return any(matches(node, pattern) for pattern in skip)


def _candidates(model: ir.Model) -> Iterator[ir.Node]:
    for graph in graphs(model):
        yield from (node for node in graph if is_op(node, *CANDIDATES))


def _points(chosen: Mapping[ir.Node, Operands], dtype: str) -> Iterator[Point]:
    """Yield one point per activation, with its place found among all others."""
    per_channel = dtype in ("int8", "float8e4m3fn")
    quantized = {(node, index) for node, found in chosen.items() for index in found.activations}
    for node, found in chosen.items():
        for index in found.activations:
            own = (node, index)
            slot = own if dtype == "float4e2m1" else highest_slot(own, quantized)
            point = Point(node, found.rule, index, slot, found.weight, found.axis)
            if found.rule == "matrix-product" and per_channel:
                axis = None if is_cut_for_attention(node, quantized) else found.axis
                point = replace(point, axis=axis)
            yield point
