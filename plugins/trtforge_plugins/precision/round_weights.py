"""Step ``round-weights``: each weight is rounded up or down as the layer's results ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import onnx_ir as ir
from pydantic import Field

from trtforge import Batches, Context, Pass, Ranges
from trtforge.graph import add_initializer
from trtforge.reference import Provider
from trtforge_plugins.precision.layer_errors import (
    Layer,
    layers_to_quantize,
    measure,
    spread,
    wanted_of,
)
from trtforge_plugins.precision.layer_rows import moments, why_not
from trtforge_plugins.precision.weight_rounding import Moments, choose_codes

if TYPE_CHECKING:
    from trtforge.artifacts import Array


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Round weights to INT8 so that the results of their layers change least on the data.

    To the nearest number is not the best choice for a sum: errors can cancel (Nagel et al., "Up or
    down? Adaptive rounding for post-training quantization", ICML 2020). Weights become numbers that
    `insert-qdq` quantizes without an error. Every layer's result is then measured on all the data;
    where its error is not smaller than with the nearest numbers, these stay. It belongs between the
    calibrator and `insert-qdq`, with the same options.
    """

    name = "round-weights"
    needs = (Batches, Ranges)
    checkpoint = True

    attention: bool = False
    """As in `insert-qdq`."""
    skip: tuple[str, ...] = ()
    """Glob patterns of nodes that stay in high precision, as in `insert-qdq`."""
    damping: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Weight of a plain rounding error beside the error of results, which keeps weights whose
    inputs hardly vary in the data near to what they were."""
    sweeps: Annotated[int, Field(ge=1)] = 4
    """How often all weights of a layer are gone through at most."""
    provider: Provider = "auto"
    """Where ONNX Runtime runs: `cpu`, `cuda`, or `auto`: CUDA where it works."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Return the number of layers whose weights were rounded another way.

        Raises:
            StepError: the model does not run on the data, or a layer's result is NaN or infinite.
        """
        wanted = wanted_of(ctx, self.skip, attention=self.attention)
        layers = layers_to_quantize(ctx, wanted, why_not)
        if not layers:
            return 0
        chosen = []
        for number, (layer, sums) in enumerate(
            zip(layers, moments(ctx, layers, self.provider), strict=True)
        ):
            ctx.progress.update("rounding weights", number, len(layers))
            chosen.append(self._rounded(layer, sums))
        return self._keep_better(model.graph, layers, chosen, ctx)

    def _rounded(self, layer: Layer, sums: Moments) -> Array:
        """Return what the layer's weight means with the chosen codes, in the weight's shape."""
        weight = layer.weight
        rows = np.moveaxis(weight, layer.channel_axis, 0)
        codes = choose_codes(
            rows.reshape(len(rows), -1),
            layer.scales,
            sums,
            damping=self.damping,
            sweeps=self.sweeps,
        )
        placed = np.moveaxis(codes.reshape(rows.shape), 0, layer.channel_axis)
        return (placed * spread(layer.scales, layer.point.axis, weight.ndim)).astype(np.float32)

    def _keep_better(
        self, graph: ir.Graph, layers: Sequence[Layer], chosen: Sequence[Array], ctx: Context
    ) -> int:
        """Give each layer the chosen weight where its error on all data is smaller; count them."""
        nearest = [layer.rounded() for layer in layers]
        before = [each.error for each in measure(ctx, layers, nearest, self.provider)]
        after = [each.error for each in measure(ctx, layers, chosen, self.provider)]
        better = [new < old for new, old in zip(after, before, strict=True)]
        for layer, weight, is_better in zip(layers, chosen, better, strict=True):
            if not is_better:
                ctx.note(
                    layer.name, "no rounding was found that is better on all data than to nearest"
                )
                continue
            old = layer.point.constant
            new = add_initializer(graph, f"{layer.name}_rounded", weight)
            layer.point.node.replace_input_with(layer.point.weight or 1, new)
            if old is not None and old.is_initializer() and not old.uses():
                graph.initializers.pop(str(old.name), None)
        left = sum(min(pair) for pair in zip(before, after, strict=True))
        if sum(before) > 0:
            ctx.note(
                "",
                f"{sum(better)} layers rounded another way; error of all {left / sum(before):.1%}",
            )
        return sum(better)
