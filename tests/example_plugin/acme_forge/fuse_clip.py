"""A pass, written with onnx-graphsurgeon, as TensorRT people know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trtforge as tf

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class FuseClip(tf.SurgeonPass):
    """Make one Clip of a Max with a constant and the Min with a constant after it."""

    name = "acme-fuse-clip"

    def rewrite(self, graph: gs.Graph, ctx: tf.Context) -> int:
        """Connect Clip in place of Min; ``cleanup`` then takes Max away."""
        changes = 0
        for top in [node for node in graph.nodes if node.op == "Min" and len(node.inputs) == 2]:
            inner, high = top.inputs
            bottom = inner.inputs[0] if len(inner.inputs) == 1 else None
            if bottom is None or bottom.op != "Max" or len(bottom.inputs) != 2:
                continue
            x, low = bottom.inputs
            if not _is_scalar(low) or not _is_scalar(high):
                ctx.note(top.name or top.op, "its limits are no scalar constants")
                continue
            top.op, top.inputs = "Clip", [x, low, high]
            changes += 1
        graph.cleanup()
        return changes


def _is_scalar(tensor: gs.Tensor) -> bool:
    return not tensor.inputs and hasattr(tensor, "values") and tensor.values.ndim == 0
