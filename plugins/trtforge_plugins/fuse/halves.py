"""Which half of another tensor's last axis a value is."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from trtforge.graph import constant, is_op, scalar


@dataclass(frozen=True)
class Half:
    """One half of the last axis of ``source``."""

    source: ir.Value
    second: bool
    node: ir.Node
    """The Split or Slice that takes it."""


def half(value: ir.Value) -> Half | None:
    """Return the half that ``value`` is, or None; shapes and bounds must be known."""
    node = value.producer()
    source = node.inputs[0] if node is not None and node.inputs else None
    if node is None or source is None or source.shape is None:
        return None
    if is_op(node, "Split") and _splits_evenly(node, source.shape):
        return Half(source, value.index() == 1, node)
    length = source.shape[-1] if len(source.shape) else None
    if is_op(node, "Slice") and isinstance(length, int) and length % 2 == 0:
        bounds = last_axis_slice(node, source.shape)
        if bounds in ((0, length // 2, 1), (length // 2, length, 1)):
            return Half(source, bounds[0] > 0, node)
    return None


def _splits_evenly(node: ir.Node, shape: ir.Shape) -> bool:
    if len(node.outputs) != 2 or node.attributes.get_int("axis", 0) not in (-1, len(shape) - 1):
        return False
    stated = node.attributes.get_ints("split", None)
    if stated is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        sizes = constant(node.inputs[1])
        if sizes is None:
            return False
        stated = sizes.tolist()
    length = shape[-1]
    return stated[0] == stated[1] if stated else isinstance(length, int) and length % 2 == 0


def last_axis_slice(node: ir.Node, shape: ir.Shape) -> tuple[int, int, int] | None:
    """Return start, end and step of a Slice of the last axis alone, or None if it is another.

    Its bounds must be constant (opset 10 and later), the length of the axis known, the step
    positive.
    """
    length, rank = shape[-1], len(shape)
    numbers = [scalar(value) for value in node.inputs[1:]]
    if len(numbers) == 2 and rank == 1:  # starts and ends: axes from the first on
        numbers.append(0)
    if len(numbers) == 3:  # the same with axes
        numbers.append(1)
    if len(numbers) != 4 or not isinstance(length, int) or None in numbers:
        return None
    start, end, axis, step = (int(number) for number in numbers if number is not None)
    if axis not in (-1, rank - 1) or step < 1:
        return None
    clipped = [min(max(at + length if at < 0 else at, 0), length) for at in (start, end)]
    return clipped[0], clipped[1], step
