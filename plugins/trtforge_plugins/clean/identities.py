"""When a node gives back a value that exists already: one rule per operator.

Each rule returns the value that equals the node's first result, or None where that is not proven
from constants and static shapes. The operators are those of https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtforge.graph import constant, constant_tensor, is_op, label, scalar
from trtforge_plugins.clean.attributes import attribute, axes_of, refers

if TYPE_CHECKING:
    from trtforge import Context

_CANDIDATES = frozenset({
    "Cast", "CastLike", "Concat", "Dropout", "Expand", "Flatten", "Identity", "Max", "Mean", "Min",
    "Pad", "Reshape", "Slice", "Squeeze", "Sum", "Tile", "Transpose", "Unsqueeze",
    "Add", "Div", "Mul", "Sub",
})  # fmt: skip


def same_value(node: ir.Node, opset: int, ctx: Context) -> ir.Value | None:
    """Return the value that ``node`` gives back unchanged, or None; notes why a Dropout stays."""
    if not is_op(node, *_CANDIDATES) or not node.inputs or node.inputs[0] is None:
        return None
    if refers(node):
        ctx.note(label(node), "kept: an attribute of it comes from the caller of the function")
        return None
    source = node.inputs[0]
    match node.op_type:
        case "Identity":
            same = True
        case "Dropout":
            same = _is_inference(node, opset, ctx)
        case "Concat" | "Sum" | "Mean" | "Max" | "Min":
            same = len(node.inputs) == 1
        case "Transpose" | "Squeeze" | "Unsqueeze" | "Reshape":
            return _behind_pair(node)
        case "Add" | "Sub" | "Mul" | "Div":
            return _other_than_neutral(node) if opset >= 7 else None
        case _:
            same = _moves_nothing(node, source)
    return source if same else None


def _other_than_neutral(node: ir.Node) -> ir.Value | None:
    """Return what 0 is added to or taken from, or 1 is a factor or the divisor of.

    As with ONNX Runtime's own elimination of such nodes, ``-0.0 + 0`` becomes ``-0.0``.
    """
    first, second = node.inputs
    neutral = 0 if node.op_type in ("Add", "Sub") else 1
    if _is_number(second, neutral, beside=first):
        return first
    swaps = node.op_type in ("Add", "Mul")
    return second if swaps and _is_number(first, neutral, beside=second) else None


def _is_number(value: ir.Value | None, number: int, beside: ir.Value | None) -> bool:
    """Whether ``value`` is this constant, and has no more dimensions than ``beside``."""
    if value is None or beside is None or beside.shape is None or value.is_graph_input():
        return False
    held = constant_tensor(value)  # not its content: it may be a large weight
    if held is None or held.size != 1 or len(held.shape) > len(beside.shape):
        return False
    return scalar(value) == number


def _is_inference(node: ir.Node, opset: int, ctx: Context) -> bool:
    if opset < 7:
        training = not attribute(node, "is_test", 0)
    elif len(node.inputs) < 3 or node.inputs[2] is None:
        training = False
    else:
        mode = constant(node.inputs[2])
        training = mode is None or bool(mode.any())
    if training:
        ctx.note(label(node), "kept: it runs, or may run, in training mode")
    return not training


def _moves_nothing(node: ir.Node, source: ir.Value) -> bool:
    match node.op_type:
        case "Cast":
            return source.dtype is not None and source.dtype == attribute(node, "to")
        case "CastLike":
            like = node.inputs[1]
            return source.dtype is not None and like is not None and source.dtype == like.dtype
        case "Flatten":
            return (
                source.shape is not None
                and source.shape.rank() == 2
                and attribute(node, "axis", 1) == 1
            )
        case "Pad":
            return _all_equal(node, "pads", 1, 0)
        case "Tile":
            return _all_equal(node, "repeats", 1, 1)
        case "Expand":
            return _expands_nothing(node, source)
    return _slices_nothing(node, source)


def _numbers(node: ir.Node, name: str, position: int) -> list[int] | None:
    """Return integers that older opsets have as an attribute and newer ones as an input."""
    if name in node.attributes:
        return [int(number) for number in attribute(node, name)]
    if len(node.inputs) <= position:
        return None
    array = constant(node.inputs[position])
    return None if array is None else [int(number) for number in array.reshape(-1)]


def _all_equal(node: ir.Node, name: str, position: int, number: int) -> bool:
    numbers = _numbers(node, name, position)
    return numbers is not None and all(found == number for found in numbers)


def _expands_nothing(node: ir.Node, source: ir.Value) -> bool:
    target = _numbers(node, "shape", 1)
    if target is None or source.shape is None or len(target) > source.shape.rank():
        return False
    dims = list(source.shape)[source.shape.rank() - len(target) :]
    return all(
        size == 1 or (isinstance(dim, int) and dim == size)
        for size, dim in zip(target, dims, strict=True)
    )


def _slices_nothing(node: ir.Node, source: ir.Value) -> bool:
    starts, ends = _numbers(node, "starts", 1), _numbers(node, "ends", 2)
    steps = _numbers(node, "steps", 4)
    if starts is None or ends is None or any(starts):
        return False
    if steps is None and len(node.inputs) > 4 and node.inputs[4] is not None:
        return False
    if steps is not None and any(step != 1 for step in steps):
        return False
    if all(end >= np.iinfo(np.int32).max for end in ends):
        return True  # longer than any dimension, whichever axes
    axes = _numbers(node, "axes", 3)
    if axes is None and len(node.inputs) > 3 and node.inputs[3] is not None:
        return False
    if source.shape is None:
        return False
    axes = list(axes_of(range(len(ends)) if axes is None else axes, source.shape.rank()))
    dims = [source.shape[axis] for axis in axes]
    return all(isinstance(dim, int) and end >= dim for dim, end in zip(dims, ends, strict=True))


def _behind_pair(node: ir.Node) -> ir.Value | None:
    """Return the value that ``node`` alone, or with the node before it, leaves unchanged."""
    source = node.inputs[0]
    if source is None:
        return None
    if node.op_type == "Transpose" and _is_sorted(_permutation(node)):
        return source
    if node.op_type == "Reshape" and _keeps_shape(node, source):
        return source
    first = source.producer()
    if first is None or refers(first) or not first.inputs or first.inputs[0] is None:
        return None
    origin = first.inputs[0]
    if node.op_type == "Transpose" and is_op(first, "Transpose"):
        return origin if _is_sorted(_composed(first, node)) else None
    if node.op_type == "Reshape":
        # A 0 copies a dimension of the node's own input, so it says nothing about the origin.
        is_pair = is_op(first, "Reshape", "Squeeze", "Unsqueeze", "Flatten")
        zeros = 0 in (_numbers(node, "shape", 1) or [0])
        return origin if is_pair and not zeros and _keeps_shape(node, origin) else None
    if is_op(first, "Squeeze", "Unsqueeze") and first.op_type != node.op_type:
        return origin if _same_axes(first, node) else None
    return None


def _permutation(node: ir.Node) -> tuple[int, ...] | None:
    if "perm" in node.attributes:
        return tuple(attribute(node, "perm"))
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    return tuple(reversed(range(source.shape.rank())))


def _composed(first: ir.Node, second: ir.Node) -> tuple[int, ...] | None:
    if "perm" not in first.attributes and "perm" not in second.attributes:
        return ()  # both reverse all axes, whatever the rank
    one, two = _permutation(first), _permutation(second)
    if one is None and two is not None:
        one = tuple(reversed(range(len(two))))
    if two is None and one is not None:
        two = tuple(reversed(range(len(one))))
    return None if one is None or two is None else tuple(one[axis] for axis in two)


def _is_sorted(permutation: Sequence[int] | None) -> bool:
    return permutation is not None and list(permutation) == list(range(len(permutation)))


def _keeps_shape(node: ir.Node, source: ir.Value) -> bool:
    """Whether a Reshape gives back the shape of ``source``.

    One -1 may stand for a dimension that is not static: all others being equal, the number of
    elements determines it (where they are zero, ONNX forbids the -1).
    """
    target = _numbers(node, "shape", 1)
    if target is None or source.shape is None or len(target) != source.shape.rank():
        return False
    copies = node.inputs[0] is source and not attribute(node, "allowzero", 0)
    return target.count(-1) <= 1 and all(
        size == -1 or (size == 0 and copies) or (isinstance(dim, int) and dim == size)
        for size, dim in zip(target, source.shape, strict=True)
    )


def _same_axes(first: ir.Node, second: ir.Node) -> bool:
    """Whether a Squeeze and an Unsqueeze, in either order, name the same axes of length 1."""
    one, two = _numbers(first, "axes", 1), _numbers(second, "axes", 1)
    if not one or not two:
        return False
    # Both count the axes of the larger shape: the Squeeze's input, the Unsqueeze's output.
    if sorted(one) == sorted(two) and (min(one) >= 0 or max(one) < 0):
        return True
    larger = first.inputs[0] if first.op_type == "Squeeze" else first.outputs[0]
    if larger is None or larger.shape is None:
        return False
    rank = larger.shape.rank()
    return sorted(axes_of(one, rank)) == sorted(axes_of(two, rank))
