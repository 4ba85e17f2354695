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
from trtforge_plugins.clean.inlining import Home, hoist_initializers, inline, take_results, why_odd
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
        if not model.graph.opset_imports.keys() & {"", "ai.onnx"}:
            return 0  # without standard operators there is no Loop
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
        if scalar(_input(node, 0)) is None:
            return "its trip count is not constant"
        if _input(node, 1) is not None and scalar(_input(node, 1)) is None:
            return "its start condition is computed at run time"
        return self._why_not_times(node, body, _trips(node)) or why_odd(node, body)

    def _why_not_times(self, node: ir.Node, body: ir.Graph, trips: int) -> str | None:
        if trips and not goes_on(body):
            return "its condition to go on is computed in the body"
        if trips > self.options.max_iterations:
            return f"it runs {trips} times, more than max_iterations {self.options.max_iterations}"
        size = trips * sum(1 for _ in body.all_nodes())
        if size > self.options.max_nodes:
            return f"it would become {size} nodes, more than max_nodes {self.options.max_nodes}"
        if trips == 0 and len(node.outputs) > len(node.inputs) - 2:
            return "it never runs, so the shape of its scan outputs is not known"
        return None

    def unroll(self, home: Home, node: ir.Node) -> list[ir.Node]:
        """Replace the Loop by its iterations; return their nodes."""
        body = node.attributes["body"].as_graph()
        for value, shared in hoist_initializers(body, node, home, self.names).items():
            value.replace_all_uses_with(shared)
            body.initializers.pop(value.name or "")
        carried = [value for value in node.inputs[2:] if value is not None]
        scanned: list[list[ir.Value]] = [[] for _ in body.outputs[1 + len(carried) :]]
        moved: list[ir.Node] = []
        for iteration in range(_trips(node)):
            clone = body.clone(allow_outer_scope_values=True)
            self.names.add(clone)
            counts = ("iteration", np.array(iteration)), ("go_on", np.array(iteration >= 0))
            state = [
                self._constant(home, node, *count) if _is_read(value) else value
                for value, count in zip(clone.inputs[:2], counts, strict=True)
            ]
            results, fresh = inline(clone, [*state, *carried], node, home, self.names)
            moved += fresh
            carried = results[1 : 1 + len(carried)]
            for values, value in zip(scanned, results[1 + len(carried) :], strict=True):
                values.append(value)
        take_results(node, [*carried, *(self._stack(home, node, v) for v in scanned)], home)
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


def _input(node: ir.Node, position: int) -> ir.Value | None:
    return node.inputs[position] if position < len(node.inputs) else None


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _trips(node: ir.Node) -> int:
    start = _input(node, 1) is None or bool(scalar(_input(node, 1)))
    return max(0, int(scalar(_input(node, 0)) or 0)) if start else 0


def goes_on(body: ir.Graph) -> bool:
    """Whether the condition that the body returns is always true, or the one it was given."""
    condition: ir.Value | None = body.outputs[0]
    while condition is not None and is_op(condition.producer(), "Identity"):
        producer = condition.producer()
        condition = producer.inputs[0] if producer is not None else None
    return condition is body.inputs[1] or scalar(condition) is True
