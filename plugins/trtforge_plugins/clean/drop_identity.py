"""drop-identity: remove nodes that give back what they are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from trtforge import Context, Pass
from trtforge.graph import bypass, label, nodes, why_not_bypass
from trtforge_plugins.clean.identities import same_value


@dataclass(frozen=True)
class DropIdentity(Pass):
    """Remove nodes that give back what they are given: Identity, Dropout, x + 0, x * 1, pairs."""

    name: ClassVar[str] = "drop-identity"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Let the users of such a node read its source; return the number of nodes removed."""
        version = model.graph.opset_imports.get("", 1)
        count = 0
        for node in nodes(model):
            source = same_value(node, version, ctx)
            if source is not None:
                count += _drop(node, source, ctx)
        return count


def _drop(node: ir.Node, source: ir.Value, ctx: Context) -> int:
    """Let the users of ``node`` read ``source``, which may lie further back than its input."""
    result, given = node.outputs[0], node.inputs[0]
    node.replace_input_with(0, source)
    reason = why_not_bypass(node)
    if reason is not None:
        node.replace_input_with(0, given)
        ctx.note(label(node), f"kept: {reason}")
        return 0
    if not source.is_graph_input():
        source.type = source.type or result.type
        source.shape = source.shape or result.shape
    bypass(node)
    first = given.producer() if given is not None and given is not source else None
    if first is None or first.graph is None or _is_used(first):
        return 1
    first.graph.remove(first, safe=True)
    return 2


def _is_used(node: ir.Node) -> bool:
    return any(value.uses() or value.is_graph_output() for value in node.outputs)
