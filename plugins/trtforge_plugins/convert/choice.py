"""A choice between results at run time, where declared shapes leave more than one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder


def chosen(
    results: Sequence[ir.Value], keys: Sequence[Sequence[int]], given: ir.Value, build: Builder
) -> ir.Value:
    """Return the result whose key holds the same numbers as ``given``; the last needs no test.

    Args:
        results: What was computed for each key; all of one shape.
        keys: Different numbers each; the order among them does not matter.
        given: The run-time value: one axis of them.
        build: Takes the new nodes.
    """
    result = results[-1]
    column = build.reshape(given, [-1, 1])
    for other, key in zip(results[-2::-1], keys[-2::-1], strict=True):
        row = build.const(np.asarray([key]), given.dtype)
        hits = build.cast(build.op("Equal", column, row), ir.DataType.INT32)
        every = build.reduce("ReduceMin", build.reduce("ReduceMax", hits, [0]), [0, 1])
        same = build.cast(build.reshape(every, []), ir.DataType.BOOL)
        result = build.op("Where", same, other, result)
    return result


def from_front(axes: ir.Value, rank: int, build: Builder) -> ir.Value:
    """Return axes counted from the front: -1 of a rank of 4 is 3."""
    return build.op("Where", build.op("Less", axes, 0), build.op("Add", axes, rank), axes)
