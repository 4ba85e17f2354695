"""Scatters that combine: each update first takes in the updates of the same place.

Then all updates of one place are equal, so that a plain scatter may write them in any order. Where
the number of updates is open, each place takes in its updates instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder, static_shape
from trtforge_plugins.convert.facts import attribute, named_dims
from trtforge_plugins.convert.rule import Refusal, Rule

MAX_PAIRS = 1 << 24
"""Entries of the comparison of each update with each other."""
_REDUCE: Mapping[str, tuple[str, str]] = {
    "add": ("ReduceSum", "Add"),
    "mul": ("ReduceProd", "Mul"),
    "max": ("ReduceMax", "Max"),
    "min": ("ReduceMin", "Min"),
}


class ScatterReduction(Rule):
    """Write ScatterND and ScatterElements with a reduction as a comparison and a plain scatter."""

    name: ClassVar[str] = "scatter-reduction"
    ops: ClassVar[tuple[str, ...]] = ("ScatterND", "ScatterElements")
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7, TensorRT 10 and 11: ScatterND with reduction is not supported; "
        "Unsupported reduction type"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__ScatterND.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Combine updates of the same place, then scatter."""
        reduction = attribute(node, "reduction", "none")
        if reduction == "none":
            return None
        data, indices, updates = node.inputs[:3]
        shapes = static_shape(indices), static_shape(updates)
        if data is None or indices is None or updates is None or data.dtype is None:
            return Refusal("an input or its type is not known")
        if reduction not in _REDUCE or data.dtype == ir.DataType.BOOL:
            return Refusal(f"ONNX does not say what {reduction!r} of {data.dtype} is")
        if shapes[0] is None or shapes[1] is None or data.shape is None:
            return self._open(node, build)
        if node.op_type == "ScatterND":
            return self._nd(node, shapes[0], shapes[1], build)
        return self._elements(node, shapes[1], build)

    def _nd(
        self, node: ir.Node, tuples: tuple[int, ...], shape: tuple[int, ...], build: Builder
    ) -> list[ir.Value] | Refusal:
        data, indices, updates = _present(node)
        *batch, depth = tuples
        count, inner = int(np.prod(batch)), shape[len(batch) :]
        if count * count * int(np.prod(inner)) > MAX_PAIRS:
            return Refusal(f"{count} updates are too many to compare in pairs")
        flat = build.reshape(indices, [count, depth])
        sizes = build.slice(build.dims(data), 0, 0, depth)
        flat = build.op("Where", build.op("Less", flat, 0), build.op("Add", flat, sizes), flat)
        equal = build.op("Equal", build.unsqueeze(flat, [1]), build.unsqueeze(flat, [0]))
        same = build.reduce("ReduceMin", build.cast(equal, ir.DataType.INT32), [2], keepdims=False)
        same = build.reshape(build.cast(same, ir.DataType.BOOL), [count, count, *[1] * len(inner)])
        others = build.reshape(updates, [1, count, *inner])
        before = build.op("GatherND", data, flat)
        combined = _combined(node, same, others, 1, before, build)
        return [build.op("ScatterND", data, flat, combined)]

    def _elements(
        self, node: ir.Node, shape: tuple[int, ...], build: Builder
    ) -> list[ir.Value] | Refusal:
        data, indices, updates = _present(node)
        axis = int(attribute(node, "axis", 0)) % len(shape)
        if int(np.prod(shape)) * shape[axis] > MAX_PAIRS:
            return Refusal(f"{shape[axis]} updates along an axis are too many to compare in pairs")
        places = _from_front(indices, data, axis, build)
        same = build.op(
            "Equal", build.unsqueeze(places, [axis + 1]), build.unsqueeze(places, [axis])
        )
        others = build.unsqueeze(updates, [axis])
        before = build.op("GatherElements", data, places, axis=axis)
        combined = _combined(node, same, others, axis + 1, before, build)
        return [build.op("ScatterElements", data, places, combined, axis=axis)]

    @staticmethod
    def _open(node: ir.Node, build: Builder) -> list[ir.Value] | Refusal:
        """Compare each place along the axis with each update; both numbers may be open."""
        data, indices, updates = _present(node)
        there, here = named_dims(data), named_dims(indices)
        if node.op_type == "ScatterND" or not there or not here:
            return Refusal("the number of updates is open, and they are compared in pairs")
        axis = int(attribute(node, "axis", 0)) % len(there)
        if any(a != b for i, (a, b) in enumerate(zip(there, here, strict=True)) if i != axis):
            return Refusal("the number of updates is open, and not all of the data gets updates")
        given = build.cast(_from_front(indices, data, axis, build), ir.DataType.INT64)
        places = build.reshape(build.positions(data, axis), [-1, *[1] * (len(there) - axis)])
        same = build.op("Equal", places, build.unsqueeze(given, [axis]))
        others = build.unsqueeze(updates, [axis])
        return [_combined(node, same, others, axis + 1, data, build)]


def _from_front(indices: ir.Value, data: ir.Value, axis: int, build: Builder) -> ir.Value:
    """Return indices into an axis of ``data`` counted from the front: -1 of a size of 4 is 3."""
    size = build.slice(build.dims(data), 0, axis, axis + 1)
    size = build.cast(size, indices.dtype or ir.DataType.INT64)
    return build.op("Where", build.op("Less", indices, 0), build.op("Add", indices, size), indices)


def _present(node: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
    data, indices, updates = node.inputs[:3]
    assert data is not None and indices is not None and updates is not None  # noqa: S101, PT018  # rewrite looked
    return data, indices, updates


def _combined(  # noqa: PLR0913, PLR0917  # the parts of one formula
    node: ir.Node,
    same: ir.Value,
    others: ir.Value,
    axis: int,
    before: ir.Value,
    build: Builder,
) -> ir.Value:
    """Return, per update or place, the entry of the data with all updates of its place taken in.

    Args:
        node: The scatter.
        same: Whether two updates have the same place, or an update has this place.
        others: The updates, with a new axis before the one that is reduced.
        axis: The axis to reduce.
        before: The data's entries at the places.
        build: Takes the new nodes.
    """
    reduce, combine = _REDUCE[attribute(node, "reduction")]
    dtype = others.dtype or ir.DataType.FLOAT
    # Sums and products of half precision are rounded once, at the end.
    narrow = dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    computing = ir.DataType.FLOAT if narrow else dtype
    neutral = build.const(_neutral(combine, computing), computing)
    taken = build.op("Where", same, build.cast(others, computing), neutral)
    total = build.reduce(reduce, taken, [axis], keepdims=False)
    return build.cast(build.op(combine, build.cast(before, computing), total), dtype)


def _neutral(combine: str, dtype: ir.DataType) -> float | int:
    """Return the number that leaves every other as it is."""
    if combine in ("Add", "Mul"):
        return int(combine == "Mul")
    if dtype.is_floating_point():
        return float("-inf" if combine == "Max" else "inf")
    limits = np.iinfo(dtype.numpy())
    return int(limits.min if combine == "Max" else limits.max)
