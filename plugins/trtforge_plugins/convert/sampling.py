"""Operators that read an image between its pixels: DeformConv and RoiAlign."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder, rank, static_shape
from trtforge_plugins.convert.facts import attribute, declared_size, operand
from trtforge_plugins.convert.rule import Refusal, Rule

_FLOAT = ir.DataType.FLOAT


class DeformConv(Rule):
    """Write a deformable convolution as GridSample at the moved places and one matrix product."""

    name: ClassVar[str] = "deform-conv"
    ops: ClassVar[tuple[str, ...]] = ("DeformConv",)
    concerns: ClassVar[str] = "TensorRT-RTX 1.7, TensorRT 10 and 11: no such operator"
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__DeformConv.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Sample, weigh, multiply."""
        value, weights, offset = node.inputs[:3]
        bias, mask = operand(node, 3), operand(node, 4)
        kernel = static_shape(weights)
        if value is None or weights is None or offset is None or value.dtype is None:
            return Refusal("the type of its input is not known")
        if kernel is None or rank(value) != 4:
            return Refusal("it is no convolution of images, or the shape of its weights is open")
        image = [declared_size(value, axis) for axis in (2, 3)]
        result = [declared_size(offset, axis) for axis in (2, 3)]
        sizes = [each for each in (*image, *result) if each is not None]
        if len(sizes) < 4:
            return Refusal("the size of its image is open")
        groups, moved = (int(attribute(node, key, 1)) for key in ("group", "offset_group"))
        channels, (height, width, rows, columns) = kernel[1] * groups, sizes
        taps, places = kernel[2] * kernel[3], rows * columns
        points = self._points(node, kernel, (rows, columns))
        steps = build.reshape(build.cast(offset, _FLOAT), [-1, taps, 2, rows, columns])
        at = build.op("Add", steps, points.astype(np.float32))
        # GridSample counts from -1 at the first pixel's outer edge to 1 at the last one's.
        scale = np.array([2 / height, 2 / width]).reshape(2, 1, 1)
        shift = np.array([1 / height - 1, 1 / width - 1]).reshape(2, 1, 1)
        at = build.op("Mul", at, scale.astype(np.float32))
        at = build.op("Add", at, shift.astype(np.float32))
        grid = build.op("Transpose", at, perm=[0, 1, 3, 4, 2])
        grid = build.op("Gather", grid, [1, 0], axis=4)  # x before y
        grid = build.reshape(grid, [-1, taps * rows, columns, 2])
        planes = build.reshape(value, [-1, channels // moved, height, width])
        sampled = build.op("GridSample", planes, build.cast(grid, value.dtype))
        if mask is not None:
            sampled = build.reshape(sampled, [-1, moved, channels // moved, taps, places])
            sampled = build.op("Mul", sampled, build.reshape(mask, [-1, moved, 1, taps, places]))
        patches = build.reshape(sampled, [-1, groups, kernel[1] * taps, places])
        matrix = build.reshape(weights, [groups, kernel[0] // groups, kernel[1] * taps])
        product = build.op("MatMul", matrix, patches)
        found = build.reshape(product, [-1, kernel[0], rows, columns])
        if bias is not None:
            found = build.op("Add", found, build.reshape(bias, [-1, 1, 1]))
        return [found]

    def _points(
        self, node: ir.Node, kernel: tuple[int, ...], result: tuple[int, int]
    ) -> np.ndarray:
        """Return the pixels that a plain convolution reads: [taps, 2, rows, columns]."""
        strides, dilations = (attribute(node, key, [1, 1]) for key in ("strides", "dilations"))
        pads = attribute(node, "pads", [0] * 4)
        taps = [np.arange(size) * by for size, by in zip(kernel[2:], dilations, strict=True)]
        starts = [np.arange(size) * by for size, by in zip(result, strides, strict=True)]
        table = np.empty((len(taps[0]), len(taps[1]), 2, *result))
        table[:, :, 0] = taps[0][:, None, None, None] + starts[0][:, None] - pads[0]
        table[:, :, 1] = taps[1][:, None, None] + starts[1] - pads[1]
        return table.reshape(-1, 2, *result)


class RoiAlign(Rule):
    """Write RoiAlign as gathers of the four pixels around each sampling point."""

    name: ClassVar[str] = "roi-align"
    ops: ClassVar[tuple[str, ...]] = ("RoiAlign",)
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7: ROIAlign plugin was not found in the plugin registry"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__RoiAlign.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Gather, weigh, pool."""
        value, regions, batches = node.inputs[:3]
        samples = int(attribute(node, "sampling_ratio", 0))
        if value is None or value.dtype is None or regions is None or batches is None:
            return Refusal("the type of its input is not known")
        if samples <= 0:
            return Refusal(
                "sampling_ratio 0 lets each region choose how many samples it takes; "
                "export the model with sampling_ratio=2"
            )
        channels, height, width = (declared_size(value, axis) for axis in (1, 2, 3))
        if channels is None or height is None or width is None:
            return Refusal("the size of its image is open")
        pooled = [int(attribute(node, f"output_{key}", 1)) for key in ("height", "width")]
        down, right = (
            self._line(node, regions, axis, pooled[axis] * samples, build) for axis in (0, 1)
        )
        rows = _neighbours(down, height, [2], build)  # [regions, points, 1]
        columns = _neighbours(right, width, [1], build)  # [regions, 1, points]
        pixels = build.op("Transpose", value, perm=[0, 2, 3, 1])
        pixels = build.reshape(pixels, [-1, channels])
        start = build.reshape(build.op("Mul", batches, height * width), [-1, 1, 1])
        parts = []
        for row, row_weight in rows:
            base = build.op("Add", start, build.op("Mul", row, width))
            for column, column_weight in columns:
                read = build.op("Gather", pixels, build.op("Add", base, column), axis=0)
                weight = build.unsqueeze(build.op("Mul", row_weight, column_weight), [3])
                parts.append(build.op("Mul", build.cast(read, _FLOAT), weight))
        largest = attribute(node, "mode", "avg") == "max"
        # As in ONNX Runtime, the largest is taken of the four weighed pixels, not of their sum.
        point = build.op("Max" if largest else "Sum", *parts)
        cells = [-1, pooled[0], samples, pooled[1], samples, channels]
        pool = "ReduceMax" if largest else "ReduceMean"
        result = build.reduce(pool, build.reshape(point, cells), [2, 4], keepdims=False)
        return [build.cast(build.op("Transpose", result, perm=[0, 3, 1, 2]), value.dtype)]

    def _line(
        self, node: ir.Node, regions: ir.Value, axis: int, points: int, build: Builder
    ) -> ir.Value:
        """Return where the samples of each region lie along an axis: [regions, points]."""
        half = attribute(node, "coordinate_transformation_mode", _default_mode(build))
        shift = 0.5 if half == "half_pixel" else 0.0
        # A region is x1, y1, x2, y2.
        scaled = build.op(
            "Mul", build.cast(regions, _FLOAT), float(attribute(node, "spatial_scale", 1.0))
        )
        first, last = (build.slice(scaled, 1, 1 - axis + end, 2 - axis + end) for end in (0, 2))
        length = build.op("Sub", last, first)
        if not shift:
            length = build.op("Max", length, 1.0)
        places = ((np.arange(points) + 0.5) / points).astype(np.float32)[None]
        return build.op("Add", build.op("Sub", first, shift), build.op("Mul", length, places))


def _default_mode(build: Builder) -> str:
    return "half_pixel" if build.opset >= 16 else "output_half_pixel"


def _neighbours(
    line: ir.Value, size: int, new_axes: list[int], build: Builder
) -> list[tuple[ir.Value, ir.Value]]:
    """Return the pixels before and behind each place, with their weights.

    Places more than one pixel outside weigh nothing; the others move to the edge.

    Args:
        line: Places along an axis: float, [regions, points].
        size: Pixels of the axis.
        new_axes: Where the results get an axis of 1 ([2] makes a column, [1] a row).
        build: Takes the new nodes.
    """
    spread = build.unsqueeze(line, new_axes)
    below, above = build.op("Less", spread, -1.0), build.op("Greater", spread, float(size))
    outside = build.op("Or", below, above)
    inside = build.op("Min", build.op("Max", spread, 0.0), float(size - 1))
    whole = build.op("Floor", inside)
    behind = build.op("Where", outside, 0.0, build.op("Sub", inside, whole))
    before = build.op("Where", outside, 0.0, build.op("Sub", 1.0, behind))
    lower = build.cast(whole, ir.DataType.INT64)
    upper = build.op("Min", build.op("Add", lower, 1), size - 1)
    return [(lower, before), (upper, behind)]
