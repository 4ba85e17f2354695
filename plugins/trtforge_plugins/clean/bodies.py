"""The graphs that a node holds: branches of an If, the body of a Loop or a Scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtforge.graph import bodies

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["bodies", "release"]


def release(node: ir.Node) -> None:
    """Let the graphs of ``node``, which is about to go, stop using values of outer graphs."""
    for body in bodies(node):
        for inner in list(body.all_nodes()):
            for index in range(len(inner.inputs)):
                inner.replace_input_with(index, None)
