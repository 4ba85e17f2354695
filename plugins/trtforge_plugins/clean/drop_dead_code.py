"""drop-dead-code: remove what no output depends on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from trtforge import Context, Pass
from trtforge.graph import graphs
from trtforge_plugins.clean.bodies import bodies, release


@dataclass(frozen=True)
class DropDeadCode(Pass):
    """Remove nodes, initializers, functions and opset imports that no output depends on."""

    name: ClassVar[str] = "drop-dead-code"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Remove what is dead; return how many nodes, initializers, functions and imports."""
        count = _drop_functions(model)
        homes: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
        count += sum(_drop_nodes(home) for home in homes)
        count += sum(_drop_initializers(graph, ctx) for graph in graphs(model))
        return count + _drop_imports(model)


def _drop_nodes(graph: ir.Graph | ir.Function) -> int:
    """Remove dead nodes from the last to the first, so that one sweep finds whole chains."""
    count = 0
    for node in reversed(graph):
        if any(value.uses() or value.is_graph_output() for value in node.outputs):
            count += sum(_drop_nodes(body) for body in bodies(node))
        else:
            release(node)
            graph.remove(node, safe=True)
            count += 1
    return count


def _drop_initializers(graph: ir.Graph | ir.Function, ctx: Context) -> int:
    if isinstance(graph, ir.Function):
        return 0
    count = 0
    for name, value in list(graph.initializers.items()):
        if value.uses() or value.is_graph_output():
            continue
        if value.is_graph_input():
            ctx.note(name, "unused, kept: it is a graph input (see tidy-initializers)")
            continue
        graph.initializers.pop(name)
        count += 1
    return count


def _drop_functions(model: ir.Model) -> int:
    live: set[ir.OperatorIdentifier] = set()
    pending: list[Iterable[ir.Node]] = [model.graph.all_nodes()]
    while pending:
        for node in pending.pop():
            identifier = node.op_identifier()
            if identifier in model.functions and identifier not in live:
                live.add(identifier)
                pending.append(model.functions[identifier].all_nodes())
    dead = [identifier for identifier in model.functions if identifier not in live]
    for identifier in dead:
        del model.functions[identifier]
    return len(dead)


def _drop_imports(model: ir.Model) -> int:
    """Remove opset imports of domains that no node and no function uses."""
    count = 0
    domains = {identifier[0] for identifier in model.functions}
    homes: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in homes:
        used = {node.domain for node in graph.all_nodes()} | {""}
        used |= domains if graph is model.graph else set()
        for domain in set(graph.opset_imports) - used:
            del graph.opset_imports[domain]
            count += 1
    return count
