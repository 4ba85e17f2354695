"""What needs float32's 24 bits whatever its range: integers kept as floats, and angles.

float16 has 11 bits: it counts to 2048, and a phase near 1000 is off by up to 0.25 radians. Rotary
and sinusoidal embeddings and the time steps of diffusion models are such phases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from trtforge.graph import constant, is_op
from trtforge_plugins.precision.cast_operators import FLOAT, MOVERS
from trtforge_plugins.precision.element_types import Types

_OF_INTEGERS = (
    *MOVERS, "Abs", "Add", "Ceil", "Clip", "Cos", "CumSum", "Div", "Exp", "Floor", "Log", "Max",
    "Min", "Mod", "Mul", "Neg", "Pow", "Range", "Reciprocal", "Round", "Sin", "Sqrt", "Sub",
    "Where",
)  # fmt: skip
_PERIODIC = ("Cos", "Sin", "Tan")
_OF_ANGLES = (*_OF_INTEGERS, "Einsum", "MatMul")


def from_integers(nodes: Sequence[ir.Node], types: Types) -> Iterator[ir.Node]:
    """Yield elementwise nodes whose float inputs are all made from integers or constant."""
    reached: set[ir.Value] = set()
    for node in nodes:
        if is_op(node, "Cast"):
            if _counts(node.inputs[0], types):
                reached.update(node.outputs)
            continue
        floats = [value for value in node.inputs if value is not None and types.get(value) == FLOAT]
        made = [value in reached for value in floats]
        exact = all(
            seen or constant(value) is not None for seen, value in zip(made, floats, strict=True)
        )
        if is_op(node, *_OF_INTEGERS) and exact and (any(made) or is_op(node, "Range")):
            reached.update(node.outputs)
            yield node


def angles(nodes: Sequence[ir.Node], types: Types) -> Iterator[ir.Node]:
    """Yield each Sin, Cos and Tan whose angle comes from positions or times, and how it is made.

    That is: from integers, inputs of the model and constants alone, by plain arithmetic. Where the
    network itself computes the angle, its values are activations like all others.
    """
    for node in nodes:
        if is_op(node, *_PERIODIC):
            way = _way(node, types)
            if way is not None:
                yield from way


def _way(start: ir.Node, types: Types) -> list[ir.Node] | None:
    """Return ``start`` and the float32 nodes before it, or None where an activation enters."""
    todo, way = [start], {start: None}
    while todo:
        for value in todo.pop().inputs:
            producer = value.producer() if value is not None else None
            if value is None or producer is None or types.get(value) != FLOAT:
                continue
            if constant(value) is not None or producer in way:
                continue
            if is_op(producer, "Cast") and _counts(producer.inputs[0], types):
                continue
            if not is_op(producer, *_OF_ANGLES):
                return None
            way[producer] = None
            todo.append(producer)
    return list(way)


def _counts(value: ir.Value | None, types: Types) -> bool:
    """Whether ``value`` is of an integer type, or bool."""
    dtype = types.get(value) if value is not None else None
    return dtype is not None and (dtype.is_integer() or dtype == ir.DataType.BOOL)
