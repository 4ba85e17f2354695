"""Operators whose result's size is a run-time value, which the declared shapes say beforehand.

A declared shape is a promise of the model. Where ONNX Runtime would give another size and break it,
the rewritten model gives the declared one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder, static_shape
from trtforge_plugins.convert.facts import attribute, declared_size, is_run_time, used
from trtforge_plugins.convert.rule import Refusal, Rule

OPEN = "the size of its result is a run-time value and the model declares none"
OLD = "TopK ranks integers since opset 11; run upgrade-opset before"
MAX_PAIRS = 1 << 24
"""Entries of the comparison of each entry with each other."""


class Range(Rule):
    """Write a Range of known length as start plus multiples of the step."""

    name: ClassVar[str] = "range"
    ops: ClassVar[tuple[str, ...]] = ("Range",)
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7: only int32, int64 and float; floats that are run-time inputs fail"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__Range.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Multiply and add."""
        start, _, delta = node.inputs[:3]
        if start is None or delta is None or start.dtype is None:
            return Refusal("the type of its inputs is not known")
        floats = start.dtype.is_floating_point()
        plain = not floats or (
            start.dtype == ir.DataType.FLOAT and not any(is_run_time(each) for each in node.inputs)
        )
        if plain:
            return None
        size = declared_size(node.outputs[0])
        if size is None:
            return Refusal(OPEN)
        if start.dtype not in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
            steps = build.const(np.arange(size), start.dtype)
            return [build.op("Add", build.op("Mul", steps, delta), start)]
        # ONNX's function body computes half precision in float32 and rounds once.
        steps = build.const(np.arange(size), ir.DataType.FLOAT)
        first, step = (build.cast(each, ir.DataType.FLOAT) for each in (start, delta))
        return [build.cast(build.op("Add", build.op("Mul", steps, step), first), start.dtype)]


class OneHot(Rule):
    """Write a OneHot whose depth is a run-time input as a comparison with the declared depth."""

    name: ClassVar[str] = "one-hot"
    ops: ClassVar[tuple[str, ...]] = ("OneHot",)
    concerns: ClassVar[str] = "TensorRT-RTX 1.7: the depth must be known when the engine is built"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__OneHot.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Compare the indices with 0, 1, 2 and so on."""
        indices, depth, values = node.inputs[:3]
        if not is_run_time(depth):
            return None
        if indices is None or indices.shape is None or values is None:
            return Refusal("the rank of its indices is not known")
        dims = len(indices.shape) + 1
        axis = int(attribute(node, "axis", -1)) % dims
        size = declared_size(node.outputs[0], axis)
        if size is None:
            return Refusal(OPEN)
        whole = build.cast(indices, ir.DataType.INT64)
        places = build.op("Where", build.op("Less", whole, 0), build.op("Add", whole, size), whole)
        classes = np.arange(size).reshape([-1, *[1] * (dims - 1 - axis)])
        hot = build.op("Equal", build.unsqueeze(places, [axis]), classes)
        off, on = (build.reshape(build.slice(values, 0, i, i + 1), []) for i in (0, 1))
        return [build.op("Where", hot, on, off)]


class Compress(Rule):
    """Write a Compress or NonZero with a declared number of results as a TopK of positions."""

    name: ClassVar[str] = "compress"
    ops: ClassVar[tuple[str, ...]] = ("Compress", "NonZero")
    concerns: ClassVar[str] = "TensorRT-RTX 1.7: no such operator, and no plugin for it"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__Compress.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Gather at the first positions that are true."""
        if build.opset < 11:
            return Refusal(OLD)
        if node.op_type == "NonZero":
            return self._non_zero(node, build)
        value, condition = node.inputs[:2]
        axis = attribute(node, "axis")
        size = declared_size(condition)
        count = declared_size(node.outputs[0], int(axis or 0))
        if value is None or condition is None or size is None or count is None:
            return Refusal(OPEN)
        flat = build.reshape(value, [-1]) if axis is None else value
        places = first_true(condition, size, count, build)
        return [build.op("Gather", flat, places, axis=int(axis or 0))]

    def _non_zero(self, node: ir.Node, build: Builder) -> list[ir.Value] | Refusal:
        value = node.inputs[0]
        shape, count = static_shape(value), declared_size(node.outputs[0], 1)
        if value is None or shape is None or not shape or count is None:
            return Refusal(OPEN)
        flat = build.cast(build.reshape(value, [-1]), ir.DataType.BOOL)
        places = first_true(flat, int(np.prod(shape)), count, build)
        rows = []
        for axis, size in enumerate(shape):
            stride = int(np.prod(shape[axis + 1 :]))
            row = build.op("Mod", build.op("Div", places, stride), size)
            rows.append(build.unsqueeze(row, [0]))
        return [build.op("Concat", *rows, axis=0) if len(rows) > 1 else rows[0]]


def first_true(flags: ir.Value, size: int, count: int, build: Builder) -> ir.Value:
    """Return the first ``count`` positions, in their order, at which ``size`` flags are true."""
    # A position that is true ranks before all that are not, and the earlier the higher.
    ranks = build.op("Where", flags, np.arange(2 * size, size, -1), np.arange(size, 0, -1))
    ranks = build.cast(ranks, ir.DataType.INT32)
    return build.ops("TopK", 2, ranks, [count], axis=0, largest=1, sorted=1)[1]


class Unique(Rule):
    """Write a Unique with a declared number of results as comparisons of all entries in pairs."""

    name: ClassVar[str] = "unique"
    ops: ClassVar[tuple[str, ...]] = ("Unique",)
    concerns: ClassVar[str] = "TensorRT-RTX 1.7, TensorRT 10 and 11: no such operator"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__Unique.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Rank the first occurrences by value, or by place where ``sorted`` is 0."""
        value = node.inputs[0]
        shape, count = static_shape(value), declared_size(node.outputs[0])
        count = 1 if shape is not None and np.prod(shape) == 1 else count
        if value is None or value.dtype is None or shape is None or count is None:
            return Refusal(OPEN)
        size = int(np.prod(shape))
        if attribute(node, "axis") is not None:
            return Refusal("it compares slices and not numbers")
        if size * size > MAX_PAIRS:
            return Refusal(f"{size} entries are too many to compare in pairs")
        flat = build.reshape(value, [-1])
        places = np.arange(size)
        earlier = places[None, :] < places[:, None]
        column, row = build.unsqueeze(flat, [1]), build.unsqueeze(flat, [0])
        equal = build.op("Equal", column, row)
        repeated = _any(build.op("And", equal, earlier), 1, build)
        first = build.op("Not", repeated)
        before = build.op("Greater", column, row) if attribute(node, "sorted", 1) else earlier
        if isinstance(before, np.ndarray):
            before = build.const(before)
            place = build.op("ArgMax", build.cast(equal, ir.DataType.INT32), axis=1, keepdims=0)
            before = build.op("Gather", before, place)
        # The rank of an entry is the number of first occurrences before it: its place in Y.
        counted = build.op("And", before, build.unsqueeze(first, [0]))
        rank = _total(counted, 1, build)
        found = build.op("Equal", build.unsqueeze(rank, [0]), np.arange(count)[:, None])
        number = build.cast(found, ir.DataType.INT32)
        indices = build.op("ArgMax", number, axis=1, keepdims=0)
        made = (build.op("Gather", flat, indices), indices, rank, _total(found, 1, build))
        return [each if used(node, i) else None for i, each in enumerate(made)][: len(node.outputs)]


def _any(flags: ir.Value, axis: int, build: Builder) -> ir.Value:
    numbers = build.cast(flags, ir.DataType.INT32)
    highest = build.reduce("ReduceMax", numbers, [axis], keepdims=False)
    return build.cast(highest, ir.DataType.BOOL)


def _total(flags: ir.Value, axis: int, build: Builder) -> ir.Value:
    return build.reduce("ReduceSum", build.cast(flags, ir.DataType.INT64), [axis], keepdims=False)
