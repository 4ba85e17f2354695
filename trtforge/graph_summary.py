"""The final model as nodes and edges, for the picture in the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

LARGEST = 20_000
"""Nodes of a graph that is still drawn."""


@dataclass(frozen=True)
class GraphSummary:
    """The main graph of a model; nodes are counted from 0, in the graph's order."""

    names: tuple[str, ...]
    ops: tuple[str, ...]
    """Operators; other domains than ONNX's are named."""
    edges: tuple[tuple[int, int], ...]
    """From a node to one that reads a tensor of it, subgraphs of the reader included; each once."""


def summarize_graph(model: ir.Model) -> GraphSummary | None:
    """Return the graph of ``model``, or None where it has more than :data:`LARGEST` nodes."""
    import onnx_ir as ir

    from trtforge.graph import bodies, label

    listed = list(model.graph)
    if len(listed) > LARGEST:
        return None
    place = {id(node): index for index, node in enumerate(listed)}
    edges: dict[tuple[int, int], None] = {}
    for index, node in enumerate(listed):
        inside = (ir.traversal.RecursiveGraphIterator(body) for body in bodies(node))
        readers = (node, *(inner for body in inside for inner in body))
        for value in (value for reader in readers for value in reader.inputs if value is not None):
            maker = value.producer()
            if maker is not None and id(maker) in place and maker is not node:
                edges[place[id(maker)], index] = None
    return GraphSummary(
        names=tuple(label(node) for node in listed),
        ops=tuple(_op(node) for node in listed),
        edges=tuple(edges),
    )


def _op(node: ir.Node) -> str:
    own = node.domain in ("", "ai.onnx")
    return node.op_type if own else f"{node.domain}::{node.op_type}"
