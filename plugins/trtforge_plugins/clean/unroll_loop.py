"""unroll-loop: write the iterations of a Loop with a constant trip count one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from trtforge import Context, Pass
from trtforge.graph import is_op, label, opset, scalar

from trtforge_plugins.clean.attributes import refers
from trtforge_plugins.clean.bodies import bodies
from trtforge_plugins.clean.inlining import Home, hoist_initializers, inline, take_results
from trtforge_plugins.clean.names import Names, add_constant


@dataclass(frozen=True)
class UnrollLoop(Pass):
    """Write the iterations of a Loop with a constant trip count one after the other."""

    name: ClassVar[str] = "unroll-loop"

    max_iterations: int = 32
    """Loops that run more often stay."""
    max_nodes: int = 10_000
    """Loops that would become more nodes than this stay."""

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Unroll in all graphs, outer ones first; return the number of Loop nodes removed."""
        unrolling = _Unrolling(self, Names(model), opset(model), ctx)
        homes: list[Home] = [model.graph, *model.functions.values()]
        return sum(unrolling.visit(home, list(home)) for home in homes)


@dataclass(frozen=True)
class _Unrolling:
    options: UnrollLoop
    names: Names
    opset: int
    ctx: Context

    def visit(self, home: Home, nodes: Iterable[ir.Node]) -> int:
        count = 0
        for node in nodes:
            if is_op(node, "Loop"):
                reason = self.why_not(node)
                if reason is None:
                    count += 1 + self.visit(home, self.unroll(home, node))
                    continue
                self.ctx.note(label(node), f"kept: {reason}")
            for body in bodies(node):
                count += self.visit(body, list(body))
        return count

    def why_not(self, node: ir.Node) -> str | None:
        """Return why a Loop cannot be unrolled, or None."""
        if refers(node):
            return "its body comes from the caller of the function"
        body = node.attributes["body"].as_graph()
        if scalar(node.inputs[0]) is None:
            return "its trip count is not constant"
        if node.inputs[1] is not None and scalar(node.inputs[1]) is None:
            return "its start condition is computed at run time"
        trips = _trips(node)
        if trips and not _goes_on(body):
            return "its condition to go on is computed in the body"
        if trips > self.options.max_iterations:
            return f"it runs {trips} times, more than max_iterations {self.options.max_iterations}"
        size = trips * sum(1 for _ in body.all_nodes())
        if size > self.options.max_nodes:
            return f"it would become {size} nodes, more than max_nodes {self.options.max_nodes}"
        if trips == 0 and len(body.outputs) > len(body.inputs) - 1:
            return "it never runs, so the shape of its scan outputs is not known"
        return None

    def unroll(self, home: Home, node: ir.Node) -> list[ir.Node]:
        """Replace the Loop by its iterations; return their nodes."""
        body = node.attributes["body"].as_graph()
        for value, shared in hoist_initializers(body, node, home, self.names).items():
            value.replace_all_uses_with(shared, replace_graph_outputs=True)
            body.initializers.pop(value.name or "")
        carried = [value for value in node.inputs[2:] if value is not None]
        scanned: list[list[ir.Value]] = [[] for _ in body.outputs[1 + len(carried) :]]
        moved: list[ir.Node] = []
        for iteration in range(_trips(node)):
            counter = self._constant(home, node, "iteration", np.array(iteration))
            go_on = self._constant(home, node, "go_on", np.array(True))  # noqa: FBT003  # a value
            clone = body.clone(allow_outer_scope_values=True)
            results, fresh = inline(clone, [counter, go_on, *carried], node, home, self.names)
            moved += fresh
            carried = results[1 : 1 + len(carried)]
            for list_, value in zip(scanned, results[1 + len(carried) :], strict=True):
                list_.append(value)
        stacked = [self._stack(home, node, values) for values in scanned]
        take_results(node, [*carried, *stacked], home)
        return moved

    def _constant(self, home: Home, node: ir.Node, name: str, array: np.ndarray) -> ir.Value:
        return add_constant(home, node, self.names.fresh(name), array)

    def _stack(self, home: Home, node: ir.Node, values: list[ir.Value]) -> ir.Value:
        """Join the values of all iterations along a new first axis."""
        parts = []
        for value in values:
            if self.opset < 13:
                part = ir.node("Unsqueeze", [value], {"axes": [0]})
            else:
                axis = self._constant(home, node, "first_axis", np.array([0]))
                part = ir.node("Unsqueeze", [value, axis])
            part.outputs[0].name = self.names.fresh(f"{value.name}_part")
            parts.append(part)
        joined = ir.node("Concat", [part.outputs[0] for part in parts], {"axis": 0})
        joined.outputs[0].name = self.names.fresh("scanned")
        home.insert_before(node, [*parts, joined])
        return joined.outputs[0]


def _trips(node: ir.Node) -> int:
    start = True if node.inputs[1] is None else bool(scalar(node.inputs[1]))
    return max(0, int(scalar(node.inputs[0]) or 0)) if start else 0


def _goes_on(body: ir.Graph) -> bool:
    """Whether the condition that the body returns is always true, or the one it was given."""
    condition: ir.Value | None = body.outputs[0]
    while condition is not None and is_op(condition.producer(), "Identity"):
        producer = condition.producer()
        condition = producer.inputs[0] if producer is not None else None
    return condition is body.inputs[1] or scalar(condition) is True
