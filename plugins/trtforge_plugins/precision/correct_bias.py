"""Step ``correct-bias``: what quantization adds to a layer's results on average is taken back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtforge import Batches, Context, Pass, Ranges
from trtforge.graph import add_initializer, constant, is_op
from trtforge.reference import Provider
from trtforge_plugins.precision.layer_errors import (
    Difference,
    Layer,
    layers_to_quantize,
    measure,
    wanted_of,
)

if TYPE_CHECKING:
    from trtforge.artifacts import Array

_BIAS = 2
"""Index of the bias among the inputs of Conv and Gemm."""


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Subtract from each layer's bias what INT8 adds to its results on average.

    Rounding and clipping shift the mean of an output channel. The shift is measured on the data,
    for each layer from its exact input, and taken from the bias (Nagel et al., "Data-free
    quantization through weight equalization and bias correction", ICCV 2019, section 4.2 and the
    empirical correction of its appendix D; Finkelstein et al., "Fighting quantization bias with
    bias", 2019). Without its mean, a channel's error is never larger. It belongs right before
    `insert-qdq`, with the same options: the model in between is right only once it is quantized.
    """

    name = "correct-bias"
    needs = (Batches, Ranges)
    checkpoint = True

    attention: bool = False
    """As in `insert-qdq`."""
    skip: tuple[str, ...] = ()
    """Glob patterns of nodes that stay in high precision, as in `insert-qdq`."""
    provider: Provider = "auto"
    """Where ONNX Runtime runs: `cpu`, `cuda`, or `auto`: CUDA where it works."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Return the number of layers whose bias changed.

        Raises:
            StepError: the model does not run on the data, or a layer's result is NaN or infinite.
        """
        wanted = wanted_of(ctx, self.skip, attention=self.attention)
        layers = layers_to_quantize(ctx, wanted, _why_not)
        if not layers:
            return 0
        found = measure(ctx, layers, [layer.rounded() for layer in layers], self.provider)
        done = [
            (layer, difference)
            for layer, difference in zip(layers, found, strict=True)
            if difference.error_without_mean < difference.error
        ]
        for layer, difference in done:
            _shift(model.graph, layer, -difference.mean)
        _tell(ctx, done)
        return len(done)


def _why_not(layer: Layer) -> str | None:
    """Return why the layer's bias cannot be corrected, or None when it can."""
    node = layer.point.node
    if is_op(node, "MatMul"):
        return None if _bias_add(node) else "no Add of a constant follows it: there is no bias"
    if is_op(node, "Gemm") and node.attributes.get_float("beta", 1.0) == 0:
        return "its beta is 0: it ignores a bias"
    bias = node.inputs[_BIAS] if len(node.inputs) > _BIAS else None
    if bias is not None and constant(bias) is None:
        return "its bias is no constant"
    return None


def _bias_add(product: ir.Node) -> tuple[ir.Node, int] | None:
    """Return the Add that alone reads ``product``, and which of its inputs is the constant bias."""
    value = product.outputs[0]
    if len(value.uses()) != 1 or value.is_graph_output():
        return None
    reader, index = next(iter(value.uses()))
    if not is_op(reader, "Add"):
        return None
    bias, weight = constant(reader.inputs[1 - index]), constant(product.inputs[1])
    if bias is None or weight is None or bias.shape not in ((weight.shape[1],), (1,), ()):
        return None
    return reader, 1 - index


def _shift(graph: ir.Graph, layer: Layer, change: Array) -> None:
    """Add ``change``, float64[channels], to the bias of the layer."""
    node, index = layer.point.node, _BIAS
    place = _bias_add(node)
    if place is not None:
        node, index = place
    elif is_op(node, "Gemm"):
        change = change / node.attributes.get_float("beta", 1.0)
    old = node.inputs[index] if len(node.inputs) > index else None
    before = constant(old)
    bias = change if before is None else before.astype(np.float64) + change
    new = add_initializer(graph, f"{layer.name}_corrected_bias", bias.astype(np.float32))
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    node.replace_input_with(index, new)
    if old is not None and old.is_initializer() and not old.uses() and not old.is_graph_output():
        graph.initializers.pop(str(old.name))


def _tell(ctx: Context, done: list[tuple[Layer, Difference]]) -> None:
    before = sum(difference.error for _, difference in done)
    after = sum(difference.error_without_mean for _, difference in done)
    if before > 0:
        ctx.note("", f"{len(done)} biases corrected; error of these layers {after / before:.1%}")
