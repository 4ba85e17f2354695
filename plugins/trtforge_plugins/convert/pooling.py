"""Poolings that TensorRT does not take: dilations, indices, other norms than 1 and 2, bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder, static_shape
from trtforge_plugins.convert.facts import attribute, used
from trtforge_plugins.convert.rule import Refusal, Rule
from trtforge_plugins.convert.windows import Window, padded, windows_of

_NO_DILATIONS = "TensorRT-RTX 1.7, TensorRT 10 and 11: does not support dilations other than 1"


def _dilated(node: ir.Node) -> bool:
    return any(each != 1 for each in attribute(node, "dilations", ()))


class MaxPool(Rule):
    """Write a pooling with dilations or with indices as slices and comparisons.

    The index of the largest entry travels beside it. Bytes are pooled as float32, which holds them.
    """

    name: ClassVar[str] = "max-pool"
    ops: ClassVar[tuple[str, ...]] = ("MaxPool",)
    concerns: ClassVar[str] = f"{_NO_DILATIONS}; nor more than 1 output; nor uint8"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__MaxPool.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Slice, compare."""
        value = node.inputs[0]
        if value is None or value.dtype is None:
            return Refusal("the type of its input is not known")
        indices = used(node, 1)
        if not indices and not _dilated(node) and value.dtype != ir.DataType.UINT8:
            return [build.op("MaxPool", value, **_facts(node)), None] if node.outputs[1:] else None
        if not indices and not _dilated(node):
            pooled = build.op("MaxPool", build.cast(value, ir.DataType.FLOAT), **_facts(node))
            return [build.cast(pooled, value.dtype), None][: len(node.outputs)]
        windows = windows_of(node)
        if isinstance(windows, Refusal):
            return windows
        if not indices:
            return [self._largest(value, windows, build), None][: len(node.outputs)]
        shape = static_shape(value)
        if shape is None:
            return Refusal("its indices count entries of an input whose shape is open")
        order = int(attribute(node, "storage_order", 0))
        return self._with_indices(value, shape, windows, order, build)

    def _largest(self, value: ir.Value, windows: list[Window], build: Builder) -> ir.Value:
        best = padded(build.cast(value, _comparable(value)), windows, _least(value), build)
        for window in windows:
            slices = window.slices(best, build)
            best = build.op("Max", *slices) if len(slices) > 1 else slices[0]
        return build.cast(best, value.dtype or ir.DataType.FLOAT)

    def _with_indices(
        self,
        value: ir.Value,
        shape: tuple[int, ...],
        windows: list[Window],
        order: int,
        build: Builder,
    ) -> list[ir.Value]:
        # Padding has the index -1 and loses against any entry, also against minus infinity.
        grid = np.arange(np.prod(shape[2:])).reshape(shape[2:][::-1] if order else shape[2:])
        plane = build.const((grid.T if order else grid)[None, None].astype(np.int64))
        index = padded(plane, windows, -1, build)
        best = padded(build.cast(value, _comparable(value)), windows, _least(value), build)
        for window in windows[::-1]:
            pairs = list(zip(window.slices(best, build), window.slices(index, build), strict=True))
            best, index = reduce(lambda a, b: self._larger(a, b, build), pairs)
        first = np.arange(shape[0] * shape[1]) * int(np.prod(shape[2:]))
        offsets = first.reshape(*shape[:2], *[1] * len(windows)).astype(np.int64)
        return [build.cast(best, value.dtype or ir.DataType.FLOAT), build.op("Add", index, offsets)]

    def _larger(
        self, left: tuple[ir.Value, ir.Value], right: tuple[ir.Value, ir.Value], build: Builder
    ) -> tuple[ir.Value, ir.Value]:
        """Return the larger value and its index; the left one where they are equal."""
        wins = build.op("Or", build.op("Greater", right[0], left[0]), build.op("Less", left[1], 0))
        return build.op("Where", wins, right[0], left[0]), build.op(
            "Where", wins, right[1], left[1]
        )


class SumPool(Rule):
    """Write AveragePool with dilations, and LpPool with them or another norm, as sums of slices."""

    name: ClassVar[str] = "sum-pool"
    ops: ClassVar[tuple[str, ...]] = ("AveragePool", "LpPool")
    concerns: ClassVar[str] = f"{_NO_DILATIONS}; Only L1 and L2 normalization are supported"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__LpPool.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Slice, add."""
        value = node.inputs[0]
        norm = int(attribute(node, "p", 2)) if node.op_type == "LpPool" else 1
        if not _dilated(node) and norm in (1, 2):
            return None
        windows = windows_of(node)
        if value is None or isinstance(windows, Refusal):
            return windows if isinstance(windows, Refusal) else Refusal("it has no input")
        if node.op_type == "AveragePool":
            counts = self._counts(windows, padding=bool(attribute(node, "count_include_pad", 0)))
            if isinstance(counts, Refusal):
                return counts
            total = self._sum(value, windows, build)
            return [build.op("Div", total, build.const(counts, value.dtype))]
        powers = build.op("Pow", build.op("Abs", value), float(norm))
        return [build.op("Pow", self._sum(powers, windows, build), 1 / norm)]

    def _sum(self, value: ir.Value, windows: list[Window], build: Builder) -> ir.Value:
        total = padded(value, windows, 0, build)
        for window in windows:
            slices = window.slices(total, build)
            total = reduce(lambda left, right: build.op("Add", left, right), slices)
        return total

    def _counts(self, windows: list[Window], *, padding: bool) -> np.ndarray | Refusal:
        """Return how many entries each mean is taken over, with a dimension per spatial axis."""
        whole = [padding and window.fill <= window.end for window in windows]
        bare = [not (window.begin or window.end or window.fill) for window in windows]
        if all(a or b for a, b in zip(whole, bare, strict=True)):
            return np.asarray(np.prod([window.kernel for window in windows]), np.float64)
        if any(window.size is None for window in windows):
            return Refusal("how much padding a mean takes in depends on sizes that are open")
        rows = [window.counts(padding=padding) for window in windows]
        return reduce(np.multiply.outer, rows)


class MaxUnpool(Rule):
    """Write MaxUnpool as ScatterElements into zeros.

    As in ONNX's reference, indices count entries of the shape that follows from the attributes, and
    a larger ``output_shape`` adds zeros behind it; ONNX Runtime counts them in ``output_shape``.
    """

    name: ClassVar[str] = "max-unpool"
    ops: ClassVar[tuple[str, ...]] = ("MaxUnpool",)
    concerns: ClassVar[str] = "TensorRT-RTX 1.7, TensorRT 10 and 11: no such operator"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__MaxUnpool.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Scatter the flat values by the flat indices."""
        value, indices = node.inputs[:2]
        shape = static_shape(value)
        if value is None or indices is None or shape is None:
            return Refusal("its indices count entries of a result whose shape is open")
        kernel = attribute(node, "kernel_shape")
        strides = attribute(node, "strides", [1] * len(kernel))
        pads = attribute(node, "pads", [0] * 2 * len(kernel))
        inner = [
            (shape[i + 2] - 1) * strides[i] + kernel[i] - pads[i] - pads[i + len(kernel)]
            for i in range(len(kernel))
        ]
        dims = [*shape[:2], *inner]
        zeros = build.const(np.zeros(int(np.prod(dims))), value.dtype)
        flat = build.reshape(indices, [-1]), build.reshape(value, [-1])
        result = build.reshape(build.op("ScatterElements", zeros, *flat, axis=0), dims)
        if len(node.inputs) < 3:
            return [result]
        final = static_shape(node.outputs[0])
        if final is None or any(new < old for new, old in zip(final, dims, strict=True)):
            return Refusal("its output_shape is a run-time input and the model declares no shape")
        behind = [new - old for new, old in zip(final, dims, strict=True)]
        return [build.op("Pad", result, [0] * len(dims) + behind)]


def _facts(node: ir.Node) -> dict[str, object]:
    return {name: found.value for name, found in node.attributes.items()}


def _comparable(value: ir.Value) -> ir.DataType:
    """Return the type to compare in: TensorRT compares no bytes."""
    dtype = value.dtype or ir.DataType.FLOAT
    small = dtype in (ir.DataType.INT8, ir.DataType.UINT8)
    return ir.DataType.INT32 if small else dtype


def _least(value: ir.Value) -> float:
    """Return what is less than every entry or equal to it."""
    integer = value.dtype in (ir.DataType.INT8, ir.DataType.UINT8)
    return -128 if integer else float("-inf")
