"""tidy-initializers: keep constants in one place, as initializers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from trtforge import Context, Pass
from trtforge.graph import constant_tensor, graphs, is_op, label
from trtforge_plugins.clean.attributes import refers
from trtforge_plugins.clean.names import put_result


@dataclass(frozen=True)
class TidyInitializers(Pass):
    """Keep constants as initializers: none is also an input, none is unused, none is a node."""

    name: ClassVar[str] = "tidy-initializers"

    clear_doc_strings: bool = False
    """Whether to remove the documentation texts, in which exporters leave stack traces."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Return the number of inputs, initializers, Constant nodes and texts dealt with."""
        count = _leave_inputs(model)
        for graph in list(graphs(model)):
            if isinstance(graph, ir.Graph):  # functions have no initializers
                count += _lift_constants(graph, ctx) + _drop_unused(graph)
        return count + (_clear_doc_strings(model) if self.clear_doc_strings else 0)


def _leave_inputs(model: ir.Model) -> int:
    """Take initializers out of the graph's inputs, where a caller could replace them."""
    graph = model.graph
    given = [value for value in graph.inputs if not value.is_initializer()]
    count = len(graph.inputs) - len(given)
    if count:
        graph.inputs[:] = given
        # Before IR version 4 every initializer had to be an input.
        model.ir_version = max(model.ir_version, 4)
    return count


def _lift_constants(graph: ir.Graph, ctx: Context) -> int:
    count = 0
    for node in graph:
        if not is_op(node, "Constant"):
            continue
        value = node.outputs[0]
        if value.is_graph_output():
            ctx.note(label(node), "kept: it is a graph output, which some readers want from a node")
            continue
        tensor = None if refers(node) else constant_tensor(value)
        if tensor is None:
            ctx.note(label(node), "kept: its value is sparse or comes from a function's caller")
            continue
        put_result(graph, node, value, tensor)
        graph.remove(node, safe=True)
        count += 1
    return count


def _drop_unused(graph: ir.Graph) -> int:
    unused = [
        name
        for name, value in graph.initializers.items()
        if not (value.uses() or value.is_graph_output() or value.is_graph_input())
    ]
    for name in unused:
        graph.initializers.pop(name)
    return len(unused)


def _clear_doc_strings(model: ir.Model) -> int:
    count = 0
    for graph in graphs(model):
        held = [graph, *graph, *(value for node in graph for value in node.outputs), *graph.inputs]
        if isinstance(graph, ir.Graph):
            held += graph.initializers.values()
        for thing in {id(thing): thing for thing in held}.values():
            if thing.doc_string:
                thing.doc_string = None
                count += 1
    return count
