"""Slice without axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder, rank, static_shape
from trtforge_plugins.convert.rule import Refusal, Rule


class NameSliceAxes(Rule):
    """Name the axes of a Slice that leaves them out: the first ones, as many as it has starts."""

    name: ClassVar[str] = "name-slice-axes"
    ops: ClassVar[tuple[str, ...]] = ("Slice",)
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7: `The shape of input starts misaligns with the shape of input axes` for "
        "fewer starts than dimensions"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__Slice.html (input axes)"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Add the input ``axes``."""
        if build.opset < 10 or (len(node.inputs) > 3 and node.inputs[3] is not None):
            return None
        starts = static_shape(node.inputs[1])
        if starts is None:
            return Refusal("the number of its starts is not known")
        if starts[0] == rank(node.inputs[0]):
            return None
        steps = node.inputs[4] if len(node.inputs) > 4 else None
        return [build.op("Slice", *node.inputs[:3], list(range(starts[0])), steps)]
