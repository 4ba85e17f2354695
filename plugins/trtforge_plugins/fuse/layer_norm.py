"""fuse-layer-norm: a layer normalization, written out or as operator, becomes one custom op."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from trtforge_ops import LayerNorm

from trtforge import Context, Pass
from trtforge_plugins.fuse.fusion import Fused, epsilon_or_why_not, fuse, why_not_last_axis
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
MEAN = node("ReduceMean", WIDE, name="mean")
DISTANCE = node("Sub", WIDE, MEAN)
SHIFTED = node("Add", node("ReduceMean", squared(DISTANCE), name="variance"), Input("epsilon"))
WEIGHT, BIAS = widened(Input("weight")), widened(Input("bias"))
FACTOR = node("Mul", inverse_root(SHIFTED), WEIGHT)
PATTERN = either(
    node("Add", node("Mul", rounded(divided_by_root(DISTANCE, SHIFTED)), WEIGHT), BIAS),
    node("Add", node("Mul", DISTANCE, FACTOR), BIAS),
    node("Add", node("Mul", WIDE, FACTOR), node("Sub", BIAS, node("Mul", MEAN, FACTOR))),
    node("LayerNormalization", X, Input("weight"), name="whole"),
)
"""``weight * (x - mean) / sqrt(variance + epsilon) + bias``: PyTorch writes the first form before
opset 17, TensorFlow the third."""


@dataclass(frozen=True)
class FuseLayerNorm(Pass):
    """Replace a layer normalization along the last axis by ``trtforge::LayerNorm``.

    TensorRT has a layer of its own for the operator ``LayerNormalization``; whether the op is
    faster there is to be measured.
    """

    name = "fuse-layer-norm"

    operator: bool = True
    """Whether to replace the operator ``LayerNormalization``, too, not only what is written out."""
    keep_rounding: bool = True
    """Whether to leave alone what rounds a value inside of it to 16 bits; the kernel rounds its
    result only."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Fuse in the main graph and in subgraphs; functions stay as they are."""
        return fuse(model, ctx, PATTERN, self._plan)

    def _plan(self, match: Match) -> Fused | str:
        epsilon = epsilon_or_why_not(match, "mean", "variance")
        if isinstance(epsilon, str):
            return epsilon
        bias: ir.Value | None
        if match.has("whole"):
            if not self.operator:
                return "it is the operator already, and operator: false keeps that"
            inputs = match.nodes[0].inputs
            bias = inputs[2] if len(inputs) > 2 else None
        else:
            bias = match["bias"]
        if bias is None:
            return "it has no bias, which the op needs"
        x, weight = match["x"], match["weight"]
        misfit = why_not_last_axis(x, weight) or why_not_last_axis(x, bias)
        if misfit:
            return misfit
        return Fused(LayerNorm(epsilon), (x, weight, bias), (1, 2), self.keep_rounding)
