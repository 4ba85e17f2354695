"""What is known of a node before it runs: attributes, constants, axes, declared shapes."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from trtforge_plugins.convert.builder import rank

Dims = tuple[int | str, ...]
"""A shape whose dimensions are numbers or names; equal names are equal numbers."""


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """Return the value of an attribute, or ``default`` where the node does not state it."""
    found = node.attributes.get(name)
    return default if found is None or found.value is None else found.value


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input, or None where the node leaves it out."""
    return node.inputs[index] if index < len(node.inputs) else None


def used(node: ir.Node, index: int) -> bool:
    """Whether the node has this output and somebody reads it."""
    if index >= len(node.outputs):
        return False
    return bool(node.outputs[index].uses()) or node.outputs[index].is_graph_output()


def axis_of(axis: int, value: ir.Value | None) -> int | None:
    """Return ``axis`` counted from the front, or None where the rank is not known."""
    dims = rank(value)
    return None if dims is None else int(axis) % max(dims, 1)


def named_dims(value: ir.Value | None) -> Dims | None:
    """Return the shape of ``value`` when each dimension has a number or a name, else None."""
    if value is None or value.shape is None:
        return None
    found = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    return None if None in found else tuple(dim for dim in found if dim is not None)


def settled_dims(value: ir.Value | None) -> Dims | None:
    """Return the shape of ``value`` as :func:`named_dims`, or that of what is computed from it.

    A result of elementwise functions of one value has the shape of that value, so a shape that
    the model declares behind them is known before them.
    """
    while value is not None:
        dims = named_dims(value)
        followers = [use.node for use in value.uses() if use.idx == 0]
        onward = next((node for node in followers if node.op_type in _SHAPE_PRESERVING), None)
        if dims is not None or onward is None:
            return dims
        value = onward.outputs[0]
    return None


_SHAPE_PRESERVING = frozenset(
    ("Abs", "Cast", "CastLike", "Exp", "Identity", "Log", "Neg", "Reciprocal", "Sqrt")
)


def declared_size(value: ir.Value | None, axis: int = 0) -> int | None:
    """Return the number that the model declares for one dimension, or None where it has none."""
    if value is None or value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    dim = value.shape[axis]
    return dim if isinstance(dim, int) else None


def reshape_dims(value: ir.Value | None) -> list[int] | None:
    """Return the dimensions that a Reshape to the shape of ``value`` needs, at most one of them -1.

    None where the declared shape does not settle them.
    """
    if value is None or value.shape is None:
        return None
    dims = [dim if isinstance(dim, int) else -1 for dim in value.shape]
    return None if dims.count(-1) > 1 or 0 in dims else dims


def is_run_time(value: ir.Value | None) -> bool:
    """Whether ``value`` depends on the contents of an input of the model, not only on its shape."""
    seen: set[int] = set()
    todo = [value]
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        producer = each.producer()
        if producer is None:
            if not each.is_initializer() or each.is_graph_input():
                return True
        elif producer.op_type not in ("Constant", "Shape", "Size"):
            todo += producer.inputs
    return False
