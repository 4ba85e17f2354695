"""Step ``cast``: float16 or bfloat16 wherever the values fit, with as few Casts as that takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from trtforge import Batches, CastTo, Context, Pass, StepError
from trtforge.graph import constant, is_op, label, nodes, opset
from trtforge_plugins.precision import half_range, magnitudes
from trtforge_plugins.precision.cast_decisions import decide
from trtforge_plugins.precision.cast_evidence import Evidence
from trtforge_plugins.precision.cast_islands import worth_keeping
from trtforge_plugins.precision.cast_operators import FLOAT
from trtforge_plugins.precision.cast_rewrite import Rewriter
from trtforge_plugins.precision.cast_types import Decisions
from trtforge_plugins.precision.element_types import Types, element_types
from trtforge_plugins.precision.mask_constants import saturate_masks

QDQ_OPSET = 19  # first whose QuantizeLinear and DequantizeLinear take float16 scales
TOLD = 0.01
"""Share of a weight's entries that must become 0 or denormal before a note tells it."""


@dataclass(frozen=True)
class Cast(Pass):
    """Convert the model to float16 or bfloat16; TensorRT computes in the types that it finds.

    What would leave the type's range stays in float32, named with the evidence: constants that do
    not fit, and tensors whose values were measured, by an earlier calibration or here (`measure`).
    Integers kept as floats and angles stay as well. Casts are as few as that allows: each is shared
    by all users of a tensor, and light nodes join the float32 parts where that saves some.
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
    measure: bool = False
    """Run the model on the loaded data and keep in float32 what leaves the type's range on it."""
    headroom: float = 2.0
    """How many times larger than on the data values may get before they overflow; at least 1."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Change the types and give :class:`CastTo`.

        Raises:
            StepError: the model has Q/DQ nodes of an opset that has no float16 scales, or there is
                no data to measure on.
            DataError: the data does not fit the model.
        """
        self._check(model)
        low = ir.DataType[self.to.upper()]
        before = _casts(model)
        types = element_types(model)
        masks = saturate_masks(model, low, types, ctx)
        evidence = Evidence(self._magnitudes(model, types, ctx), self.headroom)
        decisions = decide(model, low, types, keep=self.keep, ops=ctx.ops, evidence=evidence)
        for node in worth_keeping(model.graph, decisions, types, FLOAT if self.keep_io else low):
            decisions.kept[node] = "between nodes that stay in float32 it saves Casts"
        reasons = {label(node): reason for node, reason in decisions.kept.items()}
        for node_label, reason in reasons.items():
            ctx.note(node_label, reason)
        for name, text in (
            *_underflows(model, decisions, types),
            *self._interface(model, evidence, low),
        ):
            ctx.note(name, text)
        changes = Rewriter(model, decisions, types, keep_io=self.keep_io).run()
        ctx.put(CastTo(self.to, reasons, before, _casts(model), len(evidence.by_tensor)))
        return masks + changes

    def _check(self, model: ir.Model) -> None:
        if not self.headroom >= 1:
            raise StepError(f"headroom is {self.headroom:g}", remedy="give a number from 1 on")
        has_qdq = any(is_op(node, "DequantizeLinear") for node in model.graph.all_nodes())
        if has_qdq and opset(model) < QDQ_OPSET:
            raise StepError(
                f"Q/DQ with {self.to} scales needs opset {QDQ_OPSET}; the model has {opset(model)}",
                remedy="put upgrade-opset before cast (to 21)",
            )

    def _magnitudes(
        self, model: ir.Model, types: Types, ctx: Context
    ) -> dict[str, magnitudes.Magnitudes]:
        found = magnitudes.known(ctx)
        if self.measure:
            batches = ctx.find(Batches)
            if batches is None:
                raise StepError(
                    "there is no data to measure on", remedy="put load-data before cast"
                )
            found |= magnitudes.measure(model, types, batches, ctx)
        magnitudes.add_dequantized(model, found)
        magnitudes.pass_on(model, types, found)
        return found

    def _interface(
        self, model: ir.Model, evidence: Evidence, low: ir.DataType
    ) -> Iterator[tuple[str, str]]:
        """Yield inputs and outputs that change their type although their values do not fit."""
        for value in () if self.keep_io else (*model.graph.inputs, *model.graph.outputs):
            reason = evidence.why_not(value, low)
            if reason:
                yield str(value.name), f"{reason}: leave keep_io on"


def _casts(model: ir.Model) -> int:
    return sum(is_op(node, "Cast") for node in nodes(model))


def _underflows(model: ir.Model, decisions: Decisions, types: Types) -> Iterator[tuple[str, str]]:
    """Yield the weights that go to float16 and lose entries to underflow, with the share."""
    if decisions.low != ir.DataType.FLOAT16:
        return
    told: set[ir.Value] = set()
    for node in nodes(model):
        for index, value in enumerate(node.inputs):
            if value is None or value in told or types.get(value) != FLOAT:
                continue
            array = constant(value)
            if array is None or decisions.of_input(node, index) == FLOAT:
                continue
            told.add(value)
            zeros, denormals = half_range.underflow(array)
            if max(zeros, denormals) >= TOLD:
                kind = half_range.name(decisions.low)
                text = f"in {kind} {zeros:.1%} of its entries are 0 and {denormals:.1%} denormal"
                yield str(value.name), f"{text}; that is less than 0.1 % of its norm"
