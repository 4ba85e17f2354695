"""Axes that are a run-time input: TensorRT wants constants, and the declared shapes name them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import ClassVar

import onnx_ir as ir

from trtforge.graph import constant
from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.choice import chosen, from_front
from trtforge_plugins.convert.facts import (
    Dims,
    attribute,
    declared_size,
    named_dims,
    operand,
    reshape_dims,
    settled_dims,
)
from trtforge_plugins.convert.rule import Refusal, Rule

MAX_CANDIDATES = 6
"""How many reductions are computed side by side where shapes leave a choice between axes."""


class ReduceAxes(Rule):
    """Take the axes of a reduction from the shapes that the model declares.

    Where several choices of axes give the same shape, each is computed and the axes choose one of
    the results at run time. Axes of size 1 need no decision: reducing them changes no value.
    """

    name: ClassVar[str] = "reduce-axes"
    ops: ClassVar[tuple[str, ...]] = (
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
    )
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7, TensorRT 10 and 11: Axis input must resolve to a build-time constant"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__ReduceSum.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Give the reduction constant axes."""
        axes = operand(node, 1)
        if axes is None or constant(axes) is not None:
            return None
        keep = int(attribute(node, "keepdims", 1))
        noop = int(attribute(node, "noop_with_empty_axes", 0))
        count = declared_size(axes)
        if count == 0 and noop and node.op_type == "ReduceSum":
            return [build.op("Identity", node.inputs[0])]
        if count == 0:
            return [self._reduce(node, build, None, keep, noop)]
        before, after = named_dims(node.inputs[0]), settled_dims(node.outputs[0])
        if count is None or before is None or after is None:
            return Refusal("its axes are a run-time input and the model declares no shapes")
        candidates = _candidates(before, after, count, keep)
        if not candidates or len(candidates) > MAX_CANDIDATES:
            return Refusal(
                "its axes are a run-time input and the shapes do not settle them; "
                "make them a constant with freeze-inputs"
            )
        results = [self._reduce(node, build, each, keep, noop) for each in candidates]
        if len(results) == 1:
            return results
        return [chosen(results, candidates, from_front(axes, len(before), build), build)]

    def _reduce(
        self, node: ir.Node, build: Builder, axes: Sequence[int] | None, keep: int, noop: int
    ) -> ir.Value:
        given = None if axes is None else list(axes)
        return build.op(
            node.op_type, node.inputs[0], given, keepdims=keep, noop_with_empty_axes=noop
        )


def _candidates(before: Dims, after: Dims, count: int, keep: int) -> list[tuple[int, ...]]:
    """Return the axes that make ``after`` of ``before``, without those that differ by 1s only."""
    if keep:
        changed = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
        reduced = changed or [i for i, dim in enumerate(before) if dim == 1][:1]
        return [tuple(reduced)] if reduced and all(after[i] == 1 for i in changed) else []
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    for axes in combinations(range(len(before)), count):
        if tuple(dim for i, dim in enumerate(before) if i not in axes) == after:
            found.setdefault(tuple(i for i in axes if before[i] != 1), axes)
    return list(found.values())


class SqueezeAxes(Rule):
    """Write Squeeze and Unsqueeze with run-time axes as a Reshape to the declared shape."""

    name: ClassVar[str] = "squeeze-axes"
    ops: ClassVar[tuple[str, ...]] = ("Squeeze", "Unsqueeze")
    concerns: ClassVar[str] = "TensorRT-RTX 1.7: (un)squeeze axis is not a constant"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__Unsqueeze.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Reshape to what the model declares."""
        value, axes = node.inputs[0], operand(node, 1)
        if axes is None or constant(axes) is not None:
            return None
        dims = reshape_dims(node.outputs[0])
        if dims is None or value is None:
            return Refusal("its axes are a run-time input and the model declares no shape for it")
        return [build.reshape(value, dims)]


class ReduceBool(Rule):
    """Reduce booleans as 32-bit integers."""

    name: ClassVar[str] = "reduce-bool"
    ops: ClassVar[tuple[str, ...]] = ("ReduceMax", "ReduceMin")
    concerns: ClassVar[str] = "TensorRT-RTX 1.7: reductions have an unsupported input type of BOOL"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__ReduceMax.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Reduce 0 and 1 in place of false and true."""
        value = node.inputs[0]
        if value is None or value.dtype != ir.DataType.BOOL:
            return None
        numbers = build.cast(value, ir.DataType.INT32)
        facts = {name: found.value for name, found in node.attributes.items()}
        reduced = build.op(node.op_type, numbers, *node.inputs[1:], **facts)
        reduced.shape = node.outputs[0].shape
        # The least of nothing is the largest integer and the most of nothing the smallest, so that
        # a comparison with 0 gives ONNX's true and false for them as well.
        return [build.op("Greater", reduced, 0)]
