"""TensorScatter, which writes new keys and values into a cache, where TensorRT lacks its form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder, rank
from trtforge_plugins.convert.facts import attribute, axis_of, operand
from trtforge_plugins.convert.rule import Refusal, Rule

CACHE_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class ScatterIntoCache(Rule):
    """Write TensorScatter as ScatterND with the batch and the sequence in front."""

    name: ClassVar[str] = "scatter-into-cache"
    ops: ClassVar[tuple[str, ...]] = ("TensorScatter",)
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7: 'The past_cache tensor is required to be 4D', 'Only linear mode is "
        "supported for now', 'Sequence dimension must be -2', 'The cache tensor must be a network "
        "input', other types than float"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__TensorScatter.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Scatter ``update[b, i]`` to ``[b, (write_indices[b] + i) mod length]``."""
        cache, update = node.inputs[0], node.inputs[1]
        dims = rank(cache)
        axis = axis_of(attribute(node, "axis", -2), cache)
        if cache is None or update is None or dims is None or axis is None:
            return Refusal("the rank of its cache is not known")
        if _taken(node, cache, dims, axis):
            return None
        front = (0, axis, *(each for each in range(1, dims) if each != axis))
        if axis == 0:
            return Refusal("its sequence is the axis of the batch")
        moved = front != tuple(range(dims))
        data = build.op("Transpose", cache, perm=front) if moved else cache
        updates = build.op("Transpose", update, perm=front) if moved else update
        indices = _indices(node, data, updates, build)
        result = build.op("ScatterND", data, indices, updates)
        if not moved:
            return [result]
        return [build.op("Transpose", result, perm=tuple(np.argsort(front).tolist()))]


def _taken(node: ir.Node, cache: ir.Value, dims: int, axis: int) -> bool:
    """Whether TensorRT has this form: it updates a cache of the network's inputs in place."""
    linear = attribute(node, "mode", "linear") == "linear"
    return (
        linear and dims == 4 and axis == 2 and cache.dtype in CACHE_TYPES and cache.is_graph_input()
    )


def _indices(node: ir.Node, data: ir.Value, updates: ir.Value, build: Builder) -> ir.Value:
    """Return the places [batch, sequence, 2] that the updates go to."""
    start = operand(node, 2)
    batch = build.unsqueeze(build.positions(updates, 0), [1])
    steps = build.unsqueeze(build.positions(updates, 1), [0])
    if start is not None:
        steps = build.op("Add", build.unsqueeze(build.cast(start, ir.DataType.INT64), [1]), steps)
    if attribute(node, "mode", "linear") == "circular":
        steps = build.op("Mod", steps, build.op("Gather", build.dims(data), [1]))
    both = build.op(
        "Concat", *(build.op("Gather", build.dims(updates), [i]) for i in (0, 1)), axis=0
    )
    pairs = [build.unsqueeze(build.op("Expand", each, both), [2]) for each in (batch, steps)]
    return build.op("Concat", *pairs, axis=2)
