"""A pass, written with onnx-ir."""

from dataclasses import dataclass

import onnx_ir as ir

import trtforge as tf
from trtforge.graph import bypass, is_op, nodes


@dataclass(frozen=True)
class DropDropout(tf.Pass):
    """Remove Dropout nodes: they do nothing at inference."""

    name = "acme-drop-dropout"

    def rewrite(self, model: ir.Model, ctx: tf.Context) -> int:
        """Bypass each of them; ``bypass`` keeps the names of the model's outputs."""
        return sum(bypass(node) for node in nodes(model) if is_op(node, "Dropout"))
