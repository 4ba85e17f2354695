"""What follows from static dimensions: Shape, Size, and Gather or Slice of a Shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtforge.graph import constant, is_op
from trtforge_plugins.clean.attributes import attribute, refers
from trtforge_plugins.clean.names import put_result

if TYPE_CHECKING:
    from trtforge.artifacts import Array


def fold_static_shapes(home: ir.Graph | ir.Function) -> int:
    """Replace Shape, Size, and Gather or Slice of a Shape, where the dimensions are static."""
    count = 0
    for node in home:
        array = None if refers(node) else _static_shape(node)
        if array is not None and node.outputs[0].name:
            put_result(home, node, node.outputs[0], array)
            home.remove(node, safe=True)
            count += 1
    return count


def _static_shape(node: ir.Node) -> Array | None:
    if is_op(node, "Size"):
        source = node.inputs[0]
        if source is None or source.shape is None or not source.shape.is_static():
            return None
        return np.asarray(np.prod(source.shape.numpy(), dtype=np.int64), dtype=np.int64)
    picked = _picked_dims(node)
    if picked is None or any(not isinstance(dim, int) for dim in picked.flat):
        return None
    return picked.astype(np.int64)


def _picked_dims(node: ir.Node) -> Array | None:
    """Return the dimensions that ``node`` reads of a shape, as integers or symbols, or None."""
    if is_op(node, "Shape"):
        source = node.inputs[0]
        if source is None or source.shape is None:
            return None
        dims = [dim if isinstance(dim, int) else None for dim in source.shape]
        picked = dims[attribute(node, "start", 0) : attribute(node, "end", len(dims))]
        return np.array([*picked, None], dtype=object)[:-1]
    if not is_op(node, "Gather", "Slice") or node.inputs[0] is None:
        return None
    shape_node = node.inputs[0].producer()
    dims_of = None
    if is_op(shape_node, "Shape") and shape_node is not None and not refers(shape_node):
        dims_of = _picked_dims(shape_node)
    if dims_of is None:
        return None
    if node.op_type == "Gather":
        indices = constant(node.inputs[1])
        if indices is None or np.any(indices >= len(dims_of)) or np.any(indices < -len(dims_of)):
            return None
        return np.asarray(dims_of[indices.astype(np.int64)], dtype=object)
    return _sliced(dims_of, [constant(value) for value in node.inputs[1:]])


def _sliced(dims: Array, bounds: Sequence[Array | None]) -> Array | None:
    """Return the slice of a one-dimensional array; ``bounds`` are starts, ends, axes, steps."""
    numbers = [int(bound.item()) for bound in bounds if bound is not None and bound.size == 1]
    if len(numbers) < 2 or len(numbers) != len(bounds):
        return None
    step = numbers[3] if len(numbers) > 3 else 1
    return np.asarray(dims[numbers[0] : numbers[1] : step], dtype=object) if step > 0 else None
