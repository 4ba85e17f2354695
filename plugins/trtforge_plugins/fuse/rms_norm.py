"""fuse-rms-norm: a root mean square normalization, written out, becomes one custom op."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from trtforge_ops import AddRMSNorm, RMSNorm

from trtforge import Context, Pass
from trtforge.graph import constant, is_op
from trtforge_plugins.fuse.fusion import (
    Fused,
    epsilon_or_why_not,
    fuse,
    same_shape,
    type_name,
    why_not_last_axis,
)
from trtforge_plugins.fuse.pattern import (
    Input,
    Match,
    divided_by_root,
    either,
    inverse_root,
    node,
    rounded,
    squared,
    widened,
)

X = Input("x")
WIDE = widened(X)
SHIFTED = node("Add", node("ReduceMean", squared(WIDE), name="mean"), Input("epsilon"))
WEIGHT = widened(Input("weight"))
PATTERN = either(
    node("Mul", rounded(divided_by_root(WIDE, SHIFTED)), WEIGHT),
    node("Mul", WIDE, node("Mul", inverse_root(SHIFTED), WEIGHT)),
    node("RMSNormalization", X, Input("weight"), name="whole"),
)
"""``weight * x / sqrt(mean(x²) + epsilon)`` as PyTorch's and TensorFlow's exporters write it."""


@dataclass(frozen=True)
class FuseRMSNorm(Pass):
    """Replace a root mean square normalization along the last axis by ``trtforge::RMSNorm``.

    Where the sum of two tensors is normalized, as in each block of a transformer, the addition is
    fused, too: ``trtforge::AddRMSNorm`` gives the sum as its second output.
    """

    name = "fuse-rms-norm"

    residual: bool = True
    """Whether an addition in front becomes part of the op."""
    keep_rounding: bool = True
    """Whether to leave alone what rounds a value inside of it to 16 bits. The kernel rounds its
    result only; PyTorch models in float16 or bfloat16 as a rule also round what the weight
    multiplies. Without this, results differ by such a rounding."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Fuse in the main graph and in subgraphs; functions stay as they are."""
        return fuse(model, ctx, PATTERN, self._plan)

    def _plan(self, match: Match) -> Fused | str:
        x, weight = match["x"], match["weight"]
        epsilon = epsilon_or_why_not(match, "mean")
        if isinstance(epsilon, str):
            return epsilon
        if _is_distance(x):
            return "what it normalizes has its mean taken away: fuse-layer-norm takes it"
        misfit = why_not_last_axis(x, weight)
        if misfit:
            return misfit
        add = _residual(x, match.nodes[0]) if self.residual and weight.is_initializer() else None
        if add is None:
            return Fused(RMSNorm(epsilon), (x, weight), (1,), self.keep_rounding)
        terms = [term for term in add.inputs if term is not None]
        return Fused(AddRMSNorm(epsilon), (*terms, weight), (2,), self.keep_rounding, add)


def _is_distance(x: ir.Value) -> bool:
    node = x.producer()
    return node is not None and is_op(node, "Sub") and any(
        value is not None and is_op(value.producer(), "ReduceMean") for value in node.inputs
    )  # fmt: skip


def _residual(x: ir.Value, end: ir.Node) -> ir.Node | None:
    """Return the addition of two tensors of one shape that gives ``x``, or None."""
    add = x.producer()
    if add is None or not is_op(add, "Add") or add.graph is not end.graph:
        return None
    for value in add.inputs:
        if value is None or constant(value) is not None or type_name(value) != type_name(x):
            return None
        if not same_shape(value, x):
            return None
    return add
