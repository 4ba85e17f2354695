"""Identity matrices whose size is known at run time only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder, static_shape
from trtforge_plugins.convert.facts import attribute, operand
from trtforge_plugins.convert.rule import Refusal, Rule


class EyeLike(Rule):
    """Write EyeLike of an open shape as a comparison of row and column numbers."""

    name: ClassVar[str] = "eye-like"
    ops: ClassVar[tuple[str, ...]] = ("EyeLike",)
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7: Eyelike does not work for dynamically shaped tensors."
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__EyeLike.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Return where the column is the row plus ``k``."""
        like = operand(node, 0)
        if static_shape(like) is not None:
            return None
        number = attribute(node, "dtype")
        dtype = None if like is None else like.dtype if number is None else ir.DataType(number)
        if like is None or dtype is None:
            return Refusal("the type of its input is not known")
        rows = build.op("Add", build.positions(like, 0), int(attribute(node, "k", 0)))
        columns = build.positions(like, 1)
        same = build.op("Equal", build.unsqueeze(rows, [1]), build.unsqueeze(columns, [0]))
        return [build.cast(same, dtype)]
