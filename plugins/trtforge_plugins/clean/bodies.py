"""The graphs that a node holds: branches of an If, the body of a Loop or a Scan."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs that ``node`` holds in its attributes."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def release(node: ir.Node) -> None:
    """Let the graphs of ``node``, which is about to go, stop using values of outer graphs."""
    for body in bodies(node):
        for inner in list(body.all_nodes()):
            for index in range(len(inner.inputs)):
                inner.replace_input_with(index, None)
