"""fuse-instance-norm: the operator InstanceNormalization becomes a custom op."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from trtforge_ops import InstanceNorm

from trtforge import Context, Pass
from trtforge.graph import constant, is_op
from trtforge_plugins.fuse.fusion import Fused, fuse, shortest
from trtforge_plugins.fuse.group_norm import why_not_channels
from trtforge_plugins.fuse.pattern import Input, Match, node

PATTERN = node("InstanceNormalization", Input("x"), Input("weight"), Input("bias"))


@dataclass(frozen=True)
class FuseInstanceNorm(Pass):
    """Replace InstanceNormalization in one, two or three dimensions by ``trtforge::InstanceNorm``.

    TensorRT has layers of its own for it; whether the op is faster there is to be measured.
    """

    name = "fuse-instance-norm"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Fuse in the main graph and in subgraphs; functions stay as they are."""
        return fuse(model, ctx, PATTERN, _plan)


def _plan(match: Match) -> Fused | str:
    x, weight, bias = match["x"], match["weight"], match["bias"]
    if x.shape is None or len(x.shape) > 5:
        return f"{x.name!r} is not known to have one, two or three dimensions of space"
    misfit = why_not_channels(x, weight, vector=True) or why_not_channels(x, bias, vector=True)
    if misfit:
        return misfit
    ones, zeros = constant(weight), constant(bias)
    plain = ones is not None and zeros is not None and (ones == 1).all() and not zeros.any()
    if plain and is_op(x.producer(), "Reshape"):
        return "it normalizes the groups of a group normalization: fuse-group-norm takes it"
    epsilon = match.nodes[0].attributes.get_float("epsilon", 1e-5)
    return Fused(InstanceNorm(shortest(epsilon)), (x, weight, bias))
