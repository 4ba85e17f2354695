"""Operators on images that TensorRT lacks: AffineGrid and Col2Im."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge.graph import constant
from trtforge_plugins.convert.builder import Builder, static_shape
from trtforge_plugins.convert.facts import attribute, declared_size, operand
from trtforge_plugins.convert.rule import Refusal, Rule

_NO_OPERATOR = "TensorRT-RTX 1.7, TensorRT 10 and 11: no such operator"
MAX_TABLE = 1 << 24
"""Entries of a table of indices."""
MAX_CANDIDATES = 4
"""How many block shapes are computed side by side where shapes leave a choice."""


class AffineGrid(Rule):
    """Write AffineGrid as the product of a constant grid and the transformation."""

    name: ClassVar[str] = "affine-grid"
    ops: ClassVar[tuple[str, ...]] = ("AffineGrid",)
    concerns: ClassVar[str] = _NO_OPERATOR
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__AffineGrid.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Multiply homogeneous coordinates."""
        theta, size = node.inputs[:2]
        if theta is None or theta.dtype is None:
            return Refusal("the type of its input is not known")
        given = constant(size)
        sizes: list[int | None]
        if given is not None:
            sizes = [int(each) for each in given[2:]]
        else:
            result = node.outputs[0]
            dims = len(result.shape) if result.shape is not None else 0
            sizes = [declared_size(result, axis) for axis in range(1, dims - 1)]
        known = [each for each in sizes if each is not None]
        if not known or len(known) < len(sizes):
            return Refusal("its size is a run-time input and the model declares no shape")
        align = bool(attribute(node, "align_corners", 0))
        if align and 1 in known:
            return Refusal("ONNX does not say where the corners of a single pixel are")
        if int(np.prod(known)) * (len(known) + 1) > MAX_TABLE:
            return Refusal("its grid is too large for a constant")
        rows = [np.linspace(-1, 1, n) if align else (2 * np.arange(n) + 1) / n - 1 for n in known]
        # ONNX orders coordinates from the last axis to the first: x, y, z.
        mesh = np.meshgrid(*rows, indexing="ij")[::-1]
        points = np.stack([*mesh, np.ones_like(mesh[0])], -1).reshape(1, -1, len(known) + 1)
        narrow = theta.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
        computing = ir.DataType.FLOAT if narrow else theta.dtype
        turned = build.op("Transpose", build.cast(theta, computing), perm=[0, 2, 1])
        grid = build.op("MatMul", build.const(points, computing), turned)
        return [build.cast(build.reshape(grid, [-1, *known, len(known)]), theta.dtype)]


class Col2Im(Rule):
    """Write Col2Im as gathers, one axis after the other: each pixel adds what fell on it."""

    name: ClassVar[str] = "col2im"
    ops: ClassVar[tuple[str, ...]] = ("Col2Im",)
    concerns: ClassVar[str] = _NO_OPERATOR
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__Col2Im.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Gather the entries of each pixel and add them up."""
        value = node.inputs[0]
        columns = static_shape(value)
        image = _image(node)
        if value is None or columns is None or image is None:
            return Refusal("its shapes are run-time inputs and the model declares none")
        found = _blocks(node, columns, image)
        if not found or len(found) > MAX_CANDIDATES:
            return Refusal("its block shape is a run-time input and the shapes do not settle it")
        results = [self._written(node, columns, image, each, build) for each in found]
        if None in results:
            return Refusal("too many entries fall on one pixel")
        made = [each for each in results if each is not None]
        if len(made) == 1 or node.inputs[2] is None:
            return made[:1]
        result = made[-1]
        for other, (block, _) in zip(made[-2::-1], found[-2::-1], strict=True):
            equal = build.op("Equal", node.inputs[2], np.asarray(block, np.int64))
            every = build.reduce("ReduceMin", build.cast(equal, ir.DataType.INT32), [0])
            same = build.cast(build.reshape(every, []), ir.DataType.BOOL)
            result = build.op("Where", same, other, result)
        return [result]

    def _written(
        self,
        node: ir.Node,
        columns: tuple[int, ...],
        image: list[int],
        blocks: tuple[list[int], list[int]],
        build: Builder,
    ) -> ir.Value | None:
        """Return the image for one block shape, or None where it needs too large a table."""
        block, counts = blocks
        spatial = len(image)
        lead = [columns[0], columns[1] // int(np.prod(block))]
        # From all sizes of the block and then all counts to size and count of each axis in turn.
        order = [0, 1, *(2 + i + at for i in range(spatial) for at in (0, spatial))]
        assert node.inputs[0] is not None  # noqa: S101  # rewrite looked
        apart = build.reshape(node.inputs[0], [*lead, *block, *counts])
        pairs = [b * c for b, c in zip(block, counts, strict=True)]
        joined = build.reshape(build.op("Transpose", apart, perm=order), [*lead, *pairs])
        for i, geometry in enumerate(_geometry(node, spatial)):
            table = _table(image[i], block[i], counts[i], geometry)
            if table.size * int(np.prod(image)) > MAX_TABLE:
                return None
            pads = [0] * 2 * (spatial + 2)
            pads[spatial + 2 + 2 + i] = 1  # one zero behind, for places that nothing fell on
            padded = build.op("Pad", joined, pads, 0)
            taken = build.op("Gather", padded, table, axis=2 + i)
            joined = build.reduce("ReduceSum", taken, [3 + i], keepdims=False)
        return joined


def _image(node: ir.Node) -> list[int] | None:
    """Return the spatial shape of the result."""
    given = constant(operand(node, 1))
    if given is not None:
        return [int(each) for each in given]
    shape = static_shape(node.outputs[0])
    return None if shape is None else list(shape[2:])


def _geometry(node: ir.Node, spatial: int) -> list[tuple[int, int, int]]:
    """Return stride, dilation and padding at the front of each axis."""
    ones = [1] * spatial
    strides, dilations = attribute(node, "strides", ones), attribute(node, "dilations", ones)
    pads = attribute(node, "pads", [0] * 2 * spatial)
    return [(strides[i], dilations[i], pads[i]) for i in range(spatial)]


def _blocks(
    node: ir.Node, columns: tuple[int, ...], image: list[int]
) -> list[tuple[list[int], list[int]]]:
    """Return the block shapes that fit the shapes, each with the number of blocks per axis."""
    spatial = len(image)
    given = constant(operand(node, 2))
    pads = attribute(node, "pads", [0] * 2 * spatial)
    channels = declared_size(node.outputs[0], 1)
    sizes = [range(1, columns[1] + 1)] * spatial if given is None else [[int(n)] for n in given]
    found = []
    for block in product(*sizes):
        volume = int(np.prod(block))
        if columns[1] % volume or (given is None and channels != columns[1] // volume):
            continue
        counts = [
            (image[i] + pads[i] + pads[i + spatial] - dilation * (block[i] - 1) - 1) // stride + 1
            for i, (stride, dilation, _) in enumerate(_geometry(node, spatial))
        ]
        if min(counts) > 0 and int(np.prod(counts)) == columns[2]:
            found.append((list(block), counts))
    return found


def _table(size: int, block: int, count: int, geometry: tuple[int, int, int]) -> np.ndarray:
    """Return which entries of ``block * count`` fall on each pixel, filled up with the last + 1."""
    stride, dilation, begin = geometry
    lists: list[list[int]] = [[] for _ in range(size)]
    for entry in range(block):
        for place in range(count):
            pixel = place * stride + entry * dilation - begin
            if 0 <= pixel < size:
                lists[pixel].append(entry * count + place)
    width = max(1, *(len(entries) for entries in lists))
    table = np.full((size, width), block * count, np.int64)
    for pixel, entries in enumerate(lists):
        table[pixel, : len(entries)] = entries
    return table
