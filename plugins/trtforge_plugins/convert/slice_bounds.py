"""Slice with bounds of int32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from trtforge.graph import constant
from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.facts import operand
from trtforge_plugins.convert.rule import Rule


class SliceBoundsInt64(Rule):
    """Give Slice bounds of int64 where TensorRT stumbles over those of int32."""

    name: ClassVar[str] = "slice-bounds-int64"
    ops: ClassVar[tuple[str, ...]] = ("Slice",)
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7: 'Slice steps length 2 does not equal starts length 1' for axes of int32 "
        "without steps; 'must have same input types' for int32 bounds known at run time only"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__Slice.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | None:
        """Convert starts, ends, axes and steps."""
        bounds = [operand(node, index) for index in range(1, 5)]
        if build.opset < 10 or not any(
            bound is not None and bound.dtype == ir.DataType.INT32 for bound in bounds
        ):
            return None
        fixed = all(bound is None or constant(bound) is not None for bound in bounds)
        if fixed and (bounds[2] is None or bounds[3] is not None):
            return None
        return [build.op("Slice", node.inputs[0], *(_wide(bound, build) for bound in bounds))]


def _wide(bound: ir.Value | None, build: Builder) -> ir.Value | None:
    if bound is None:
        return None
    array = constant(bound)
    if array is not None:
        return build.const(array, ir.DataType.INT64)
    return build.cast(bound, ir.DataType.INT64)
