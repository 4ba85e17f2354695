"""inline-functions: put the bodies of model-local functions in the place of their calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from trtforge import Context, Pass, StepError
from trtforge.graph import nodes


@dataclass(frozen=True)
class InlineFunctions(Pass):
    """Put the bodies of model-local functions in the place of their calls.

    TensorRT's parser tells functions apart by their operator name only: of two functions with one
    name it takes the same body, one named like a standard operator it ignores, and an attribute
    handed through two calls becomes 0. After inlining nothing is left to mistake. Functions of
    custom ops stay: their calls are what a plugin takes the place of.
    """

    name: ClassVar[str] = "inline-functions"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Inline all but custom ops; return the number of calls gone."""
        kept = {key for key in model.functions if f"{key[0]}::{key[1]}" in ctx.ops}
        for key in kept:
            ctx.note("::".join(key[:2]), "kept: a custom op; a plugin takes the place of its calls")
        calls = sum(1 for node in nodes(model) if node.op_identifier() in model.functions)
        if not model.functions or set(model.functions) == kept:
            return 0
        from onnx_ir.passes.common import InlinePass

        try:
            InlinePass(criteria=lambda function: function.identifier() not in kept)(model)
        except (ir.passes.PassError, ir.passes.InvariantError, ValueError) as error:
            raise StepError(
                f"the functions of the model cannot be inlined: {error}",
                remedy="check that no function calls itself, directly or through others",
            ) from error
        left = sum(1 for node in nodes(model) if node.op_identifier() in model.functions)
        return max(calls - left, 1)
