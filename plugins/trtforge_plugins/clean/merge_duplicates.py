"""merge-duplicates: compute the same thing once (common subexpressions)."""

from __future__ import annotations

import struct
from collections import ChainMap
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from trtforge import Context, Pass
from trtforge.graph import label
from trtforge.weights import tensor_digest
from trtforge_plugins.clean.bodies import bodies
from trtforge_plugins.clean.names import hand_over
from trtforge_plugins.clean.randomness import random_functions, why_random

Seen = ChainMap[Hashable, ir.Node]


@dataclass(frozen=True)
class MergeDuplicates(Pass):
    """Compute once what several nodes compute from the same inputs."""

    name: ClassVar[str] = "merge-duplicates"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Let all users read the first of equal nodes; return the number of nodes removed."""
        merging = _Merging(random_functions(model), frozenset(model.functions), ctx)
        count = merging.visit(model.graph, ChainMap())
        return count + sum(
            merging.visit(function, ChainMap()) for function in model.functions.values()
        )


@dataclass(frozen=True)
class _Merging:
    random: frozenset[ir.OperatorIdentifier]
    functions: frozenset[ir.OperatorIdentifier]
    ctx: Context

    def visit(self, graph: ir.Graph | ir.Function, seen: Seen) -> int:
        """Merge in one graph and its subgraphs, which may read nodes of the outer graph."""
        count = 0
        for node in graph:
            inner = list(bodies(node))
            count += sum(self.visit(body, seen.new_child()) for body in inner)
            if inner:
                continue
            key = _key(node)
            first = seen.setdefault(key, node)
            if first is not node:
                count += self._merge(node, first)
        return count

    def _merge(self, node: ir.Node, first: ir.Node) -> bool:
        reason = self._why_not(node) or why_not_replaceable(node, first)
        if reason is not None:
            self.ctx.note(label(node), f"equals {label(first)}, kept: {reason}")
            return False
        for old, new in zip(node.outputs, first.outputs, strict=True):
            hand_over(old, new)
        if node.graph is not None:
            node.graph.remove(node, safe=True)
        return True

    def _why_not(self, node: ir.Node) -> str | None:
        if node.domain not in ("", "ai.onnx") and node.op_identifier() not in self.functions:
            return f"whether {node.domain}::{node.op_type} gives the same each time is not known"
        return why_random(node, self.random)


def why_not_replaceable(node: ir.Node, first: ir.Node) -> str | None:
    """Return why the results of ``first`` cannot stand for those of ``node``, or None."""
    for old, new in zip(node.outputs, first.outputs, strict=True):
        if old.is_graph_output() and first.graph is not node.graph:
            return "it is the result of a subgraph, which cannot return an outer value"
        if old.is_graph_output() and new.is_graph_output():
            return "both results are graph outputs"
    return None


def _key(node: ir.Node) -> Hashable:
    """Return what two nodes have in common exactly when they compute the same."""
    names = tuple(bool(value.name) for value in node.outputs)
    return (
        node.op_identifier(),
        tuple(node.inputs),
        names,
        tuple(sorted((a.name, _attribute_key(a)) for a in node.attributes.values())),
    )


def _attribute_key(attribute: ir.Attr) -> str:
    """Return text that tells values apart as bits: 0.0 and -0.0 differ, NaN equals itself."""
    if attribute.is_ref():
        return f"caller's {attribute.ref_attr_name}"
    kind, value = attribute.type, attribute.value
    if kind in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS):
        floats = [value] if kind == ir.AttributeType.FLOAT else value
        return f"{kind} {struct.pack(f'{len(floats)}d', *floats).hex()}"
    if kind == ir.AttributeType.TENSOR:
        return f"{kind} {tensor_digest(value)}"
    if kind == ir.AttributeType.TENSORS:
        return f"{kind} {[tensor_digest(tensor) for tensor in value]}"
    return f"{kind} {value!r}"
