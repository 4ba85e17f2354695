"""resolve-if: keep only the branch that a constant condition takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from trtforge import Context, Pass
from trtforge.graph import is_op, label, scalar
from trtforge_plugins.clean.attributes import refers
from trtforge_plugins.clean.bodies import bodies
from trtforge_plugins.clean.inlining import Home, inline, take_results, why_odd
from trtforge_plugins.clean.names import Names


@dataclass(frozen=True)
class ResolveIf(Pass):
    """Put the branch that a constant condition takes in the place of its If."""

    name: ClassVar[str] = "resolve-if"

    def rewrite(self, model: ir.Model, ctx: Context) -> int:
        """Resolve in all graphs, outer ones first; return the number of If nodes removed."""
        names = Names(model)
        homes: list[Home] = [model.graph, *model.functions.values()]
        return sum(_resolve(home, list(home), names, ctx) for home in homes)


def _resolve(home: Home, nodes: Iterable[ir.Node], names: Names, ctx: Context) -> int:
    count = 0
    for node in nodes:
        if is_op(node, "If"):
            reason = _why_not(node)
            if reason is None:
                count += 1 + _resolve(home, _take_branch(home, node, names), names, ctx)
                continue
            ctx.note(label(node), f"kept: {reason}")
        for body in bodies(node):
            count += _resolve(body, list(body), names, ctx)
    return count


def _why_not(node: ir.Node) -> str | None:
    if refers(node):
        return "a branch comes from the caller of the function"
    if scalar(node.inputs[0]) is None:
        return "its condition is computed at run time"
    return why_odd(node, _taken(node))


def _take_branch(home: Home, node: ir.Node, names: Names) -> list[ir.Node]:
    """Replace the If by its branch; return the nodes of the branch."""
    results, moved = inline(_taken(node), [], node, home, names)
    take_results(node, results, home)
    return moved


def _taken(node: ir.Node) -> ir.Graph:
    branch = "then_branch" if scalar(node.inputs[0]) else "else_branch"
    return node.attributes[branch].as_graph()
