"""Step ``cast``: everything in float16 or bfloat16, with casts only where types really change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from trtforge import CastTo, Context, Pass, StepError
from trtforge.graph import is_op, label, opset
from trtforge_plugins.precision.cast_decisions import decide
from trtforge_plugins.precision.cast_rewrite import Rewriter
from trtforge_plugins.precision.element_types import element_types
from trtforge_plugins.precision.mask_constants import saturate_masks

QDQ_OPSET = 19  # first whose QuantizeLinear and DequantizeLinear take float16 scales


@dataclass(frozen=True)
class Cast(Pass):
    """Convert the model to float16 or bfloat16; TensorRT computes in the types that it finds.

    Weights are converted once. Casts stand only where float32 meets the lower type: at the
    model's inputs and outputs and around nodes that stay in float32, each with its reason.
    """

    name = "cast"
    gives = (CastTo,)
    checkpoint = True

    to: Literal["float16", "bfloat16"] = "float16"
    """The lower type; bfloat16 needs sm_80 or newer."""
    keep: tuple[str, ...] = ()
    """Glob patterns of node names or operators that stay in float32."""
    keep_io: bool = True
    """Leave the model's inputs and outputs in float32."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Change the types and give :class:`CastTo`.

        Raises:
            StepError: the model has Q/DQ nodes of an opset that has no float16 scales.
        """
        low = ir.DataType[self.to.upper()]
        has_qdq = any(is_op(node, "DequantizeLinear") for node in model.graph.all_nodes())
        if has_qdq and opset(model) < QDQ_OPSET:
            raise StepError(
                f"Q/DQ with {self.to} scales needs opset {QDQ_OPSET}; the model has {opset(model)}",
                remedy="put upgrade-opset before cast (to 21)",
            )
        types = element_types(model)
        masks = saturate_masks(model, low, types, ctx)
        decisions = decide(model, low, self.keep, types, ctx.ops)
        reasons = {label(node): reason for node, reason in decisions.kept.items()}
        for node_label, reason in reasons.items():
            ctx.note(node_label, reason)
        ctx.put(CastTo(self.to, reasons))
        return masks + Rewriter(model, decisions, types, keep_io=self.keep_io).run()
