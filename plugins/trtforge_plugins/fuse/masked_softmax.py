"""fuse-masked-softmax: scores that are scaled, masked and normalized become one custom op."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from trtforge_ops import MaskedSoftmax

from trtforge import Context, Pass
from trtforge.graph import scalar
from trtforge_plugins.fuse.fusion import Fused, fuse, same_dim, shortest
from trtforge_plugins.fuse.pattern import Input, Match, Scalar, either, node, widened

X, FACTOR = Input("x"), Scalar("factor")
SCORES = either(node("Mul", X, FACTOR), node("Div", X, FACTOR, name="quotient"), X)
PATTERN = node("Softmax", widened(node("Add", SCORES, Input("mask"))))
"""``softmax(x * scale + mask)``, as attention computes it."""


@dataclass(frozen=True)
class FuseMaskedSoftmax(Pass):
    """Replace a softmax over scores with a mask added by ``trtforge::MaskedSoftmax``.

    Scores are [batch, heads, queries, keys], the mask [batch, 1, queries or 1, keys]. Where
    TensorRT would fuse a whole attention by itself, this gets in its way.
    """

    name = "fuse-masked-softmax"

    keep_rounding: bool = True
    """Whether to leave alone what rounds a value inside of it to 16 bits, as models in float16
    do; the kernel rounds its result only."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Fuse in the main graph and in subgraphs; functions stay as they are."""
        return fuse(model, ctx, PATTERN, self._plan)

    def _plan(self, match: Match) -> Fused | str:
        x, mask = match["x"], match["mask"]
        if match.nodes[0].attributes.get_int("axis", 0) not in (-1, 3):
            return "its axis is not stated to be the last of four"
        misfit = _why_no_mask(x, mask)
        if misfit:
            return misfit
        factor = float(scalar(match["factor"]) or 0) if match.has("factor") else 1.0
        if not factor:
            return f"the scale {match['factor'].name!r} is zero"
        scale = shortest(1 / factor if match.has("quotient") else factor)
        return Fused(MaskedSoftmax(scale), (x, mask), keeps_rounding=self.keep_rounding)


def _why_no_mask(x: ir.Value, mask: ir.Value) -> str:
    if x.shape is None or mask.shape is None or len(x.shape) != 4 or len(mask.shape) != 4:
        return f"{x.name!r} and {mask.name!r} are not known to have four axes each"
    batch, heads, queries, keys = mask.shape
    if not same_dim(batch, x.shape[0]) or heads != 1 or not same_dim(keys, x.shape[3]):
        return f"{mask.name!r} is not known to be one mask per sample, for all heads"
    if queries != 1 and not same_dim(queries, x.shape[2]):
        return f"{mask.name!r} is not known to have one row, or one per query"
    return ""
