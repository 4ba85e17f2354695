"""fuse-gated-activation: SwiGLU and GeGLU become one custom op."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx_ir as ir
from trtforge_ops import GatedActivation

from trtforge import Context, Pass
from trtforge.graph import add_initializer, constant, is_op, label, unique_name
from trtforge_plugins.fuse.bias_gelu import find_gelu, nodes_between
from trtforge_plugins.fuse.fusion import Fused, fuse
from trtforge_plugins.fuse.halves import half
from trtforge_plugins.fuse.pattern import Input, Match, Pattern, either, node

Activation = Literal["silu", "gelu", "gelu_tanh"]
FORMS: dict[str, Activation] = {"none": "gelu", "tanh": "gelu_tanh"}


@dataclass(frozen=True)
class GeluOf(Pattern):
    """The GELU of the value that the match gets under ``name``, in any form."""

    name: str

    def matches(self, value: ir.Value | None, match: Match) -> Iterator[Match]:
        """Yield the match; the result is named ``gelu`` or ``gelu_tanh``."""
        producer = value.producer() if value is not None else None
        gelu = find_gelu(producer) if producer is not None else None
        if gelu is None or value is None:
            return
        inside = (*match.nodes, *nodes_between(gelu.end, gelu.argument))
        named = replace(match, nodes=inside).naming(self.name, gelu.argument)
        found = named.naming(FORMS[gelu.form], value) if named is not None else None
        if found is not None:
            yield found


GATE = Input("gate")
PATTERN = node(
    "Mul",
    either(node("Mul", GATE, node("Sigmoid", GATE), name="silu"), GeluOf("gate")),
    Input("up"),
)


@dataclass(frozen=True)
class Projection:
    """A product with a constant matrix, and maybe a constant bias."""

    nodes: tuple[ir.Node, ...]
    value: ir.Value
    matrix: np.ndarray
    bias: np.ndarray | None


@dataclass(frozen=True)
class FuseGatedActivation(Pass):
    """Replace ``act(gate) * up`` by ``trtforge::GatedActivation``; act is SiLU or a GELU.

    Gate and up are the halves of one tensor, or two products of one tensor with constant
    matrices, which become one product with the matrices side by side, as in LLaMA's MLP.
    """

    name = "fuse-gated-activation"

    keep_rounding: bool = True
    """Whether to leave alone what rounds a value inside of it to 16 bits, as models in float16
    do; the kernel rounds its result only."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Fuse in the main graph and in subgraphs; functions stay as they are."""
        return fuse(model, ctx, PATTERN, self._plan)

    def _plan(self, match: Match) -> Fused | str:
        forms: tuple[Activation, ...] = ("silu", "gelu", "gelu_tanh")
        (activation,) = (form for form in forms if match.has(form))
        gate, up = match["gate"], match["up"]
        halves = half(gate), half(up)
        if halves[0] and halves[1] and halves[0].source is halves[1].source:
            if halves[0].second == halves[1].second:
                return "gate and up are the same half"
            return Fused(
                GatedActivation(activation, gate_last=halves[0].second),
                (halves[0].source,),
                keeps_rounding=self.keep_rounding,
                leftover=(halves[0].node, halves[1].node),
            )
        gates, ups = _projection(gate), _projection(up)
        if gates is None or ups is None or gates.value is not ups.value:
            return "gate and up are neither halves of one tensor nor two projections of one tensor"
        reason = _why_not_joined(match, gates, ups)
        if reason:
            return reason
        return Fused(
            GatedActivation(activation),
            (gate,),
            keeps_rounding=self.keep_rounding,
            leftover=(*gates.nodes, *ups.nodes),
            prepare=lambda end: (_joined(end, gates, ups),),
        )


def _projection(value: ir.Value) -> Projection | None:
    end = value.producer()
    bias, product, nodes = None, end, []
    if end is not None and is_op(end, "Add"):
        left, right = end.inputs
        bias, product = constant(left), right.producer() if right is not None else None
        if bias is None:
            bias, product = constant(right), left.producer() if left is not None else None
        if bias is None or bias.ndim != 1:
            return None
        nodes.append(end)
    if product is None or not is_op(product, "MatMul") or product.inputs[0] is None:
        return None
    matrix = constant(product.inputs[1])
    if matrix is None or matrix.ndim != 2:
        return None
    return Projection((*nodes, product), product.inputs[0], matrix, bias)


def _why_not_joined(match: Match, gates: Projection, ups: Projection) -> str:
    if gates.matrix.shape != ups.matrix.shape or (gates.bias is None) != (ups.bias is None):
        return "the two projections differ in size, or one has no bias"
    inside = {*match.nodes, *gates.nodes, *ups.nodes}
    for part in (*gates.nodes, *ups.nodes):
        value = part.outputs[0]
        if value.is_graph_output() or set(value.consumers()) - inside:
            return f"the projection {value.name!r} is used elsewhere too"
    return ""


def _joined(end: ir.Node, gates: Projection, ups: Projection) -> ir.Value:
    """Put one product in front of ``end`` and return its result: gates, then ups."""
    graph = end.graph
    assert isinstance(graph, ir.Graph)  # noqa: S101  # functions are not fused
    title = f"{label(gates.nodes[-1])}+{label(ups.nodes[-1])}"
    matrix = add_initializer(
        graph, f"{title}_weight", np.concatenate([gates.matrix, ups.matrix], axis=1)
    )
    new = [ir.node("MatMul", (gates.value, matrix), name=title)]
    if gates.bias is not None and ups.bias is not None:
        bias = add_initializer(graph, f"{title}_bias", np.concatenate([gates.bias, ups.bias]))
        new.append(ir.node("Add", (new[0].outputs[0], bias), name=f"{title}_add"))
    shape = gates.value.shape
    for made, old in zip(new, gates.nodes[::-1], strict=True):
        result = made.outputs[0]
        result.name = unique_name(graph, f"{made.name}_out")
        result.type = ir.TensorType(ir.DataType.from_numpy(gates.matrix.dtype))
        result.shape = ir.Shape([*shape[:-1], 2 * gates.matrix.shape[1]]) if shape else None
        made.metadata_props.update(old.metadata_props)
    graph.insert_before(end, new)
    return new[-1].outputs[0]
