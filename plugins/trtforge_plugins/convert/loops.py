"""Makes a Loop that runs a known number of times."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder

Body = Callable[[Builder, ir.Value], tuple[ir.Value, Sequence[ir.Value]]]
"""Makes the nodes of one turn, from the carried value: the next one, and what is collected."""


def counted_loop(build: Builder, turns: int, start: ir.Value, body: Body) -> list[ir.Value]:
    """Add a Loop and return what each turn collected, one behind the other on a new first axis.

    Args:
        build: Takes the Loop.
        turns: How often it runs.
        start: The carried value of the first turn; it keeps its type and shape.
        body: Makes the nodes of a turn. They may read values from outside.
    """
    inner = Builder(build.node, build.opset, build.rule, part="/turn")
    stem = build.node.name or build.node.outputs[0].name
    turn, going, carried = (
        ir.Value(name=f"{stem}/{name}", type=ir.TensorType(dtype), shape=shape)
        for name, dtype, shape in (
            ("turn", ir.DataType.INT64, ir.Shape([])),
            ("going", ir.DataType.BOOL, ir.Shape([])),
            ("carried", start.dtype or ir.DataType.FLOAT, start.shape),
        )
    )
    still = inner.op("Identity", going)
    after, collected = body(inner, carried)
    graph = ir.Graph(
        [turn, going, carried], [still, after, *collected], nodes=inner.nodes, name=f"{stem}/turns"
    )
    yes = build.const(np.ones((), np.bool_))
    made = build.ops("Loop", 1 + len(collected), np.int64(turns), yes, start, body=graph)
    for result, one in zip(made[1:], collected, strict=True):
        result.type = one.type
        result.shape = None if one.shape is None else ir.Shape([turns, *one.shape])
    return list(made[1:])
