"""Attention masks written with float32's lowest number, which float16 turns into -inf.

A row that is masked everywhere then softmaxes to NaN. A quarter of the type's lowest number masks
just as well, and stays finite when scores and a second mask are added.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from trtforge import Context
from trtforge.graph import add_initializer, constant, is_op, label
from trtforge_plugins.precision.cast_operators import FLOAT, MOVERS
from trtforge_plugins.precision.cast_rewrite import drop_unused
from trtforge_plugins.precision.element_types import Types
from trtforge_plugins.precision.half_range import largest

_MASKING = ("Add", "Mul", "Sub", "Where")
_ROOM = 4


def saturate_masks(model: ir.Model, low: ir.DataType, types: Types, ctx: Context) -> int:
    """Replace too large negative constants on the way to a Softmax; return how many."""
    limit = largest(low)
    count = 0
    for node in model.graph.all_nodes():
        for index, value in _constants(node, types):
            array = constant(value)
            if array is None or array.size == 0 or not np.isfinite(array).all():
                continue
            if array.min() >= -limit or array.max() > limit or not _reaches_softmax(node):
                continue
            graph = node.graph
            if isinstance(graph, ir.Graph):
                saturated = np.maximum(array, np.float32(-limit / _ROOM))
                copy = add_initializer(graph, f"{value.name}_finite", saturated)
                node.replace_input_with(index, copy)
                types[copy] = FLOAT
                drop_unused(value)
                count += 1
                ctx.note(label(node), f"mask value {array.min():g} became {-limit / _ROOM:g}")
    return count


def _constants(node: ir.Node, types: Types) -> Iterator[tuple[int, ir.Value]]:
    if is_op(node, *_MASKING):
        for index, value in enumerate(node.inputs):
            if value is None or types.get(value) != FLOAT:
                continue
            if value.producer() is None or is_op(value.producer(), "Constant"):
                yield index, value


def _reaches_softmax(start: ir.Node) -> bool:
    """Whether only masking arithmetic and data movement lie between ``start`` and a Softmax."""
    todo, seen = [start], {start}
    while todo:
        for output in todo.pop().outputs:
            for node, _ in output.uses():
                if is_op(node, "Softmax", "LogSoftmax", "Attention"):
                    return True
                if is_op(node, *_MASKING, *MOVERS) and node not in seen:
                    seen.add(node)
                    todo.append(node)
    return False
