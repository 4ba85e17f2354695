"""Put the body of an If or a Loop in the place of the node that holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from trtforge_plugins.clean.bodies import release
from trtforge_plugins.clean.names import Names, add_constant, hand_over

Home = ir.Graph | ir.Function


def inline(
    body: ir.Graph, arguments: Sequence[ir.Value], node: ir.Node, home: Home, names: Names
) -> tuple[list[ir.Value], list[ir.Node]]:
    """Move the nodes and constants of ``body`` before ``node``.

    Args:
        body: A graph that nothing holds afterwards.
        arguments: What takes the place of the inputs of ``body``.
        node: A node of ``home``.
        home: Where the nodes go.
        names: The names of the model; what moves gets another one where its own is taken.

    Returns:
        What takes the place of the outputs of ``body``, and the moved nodes.
    """
    stands_for: dict[ir.Value, ir.Value] = dict(zip(body.inputs, arguments, strict=True))
    stands_for.update(hoist_initializers(body, node, home, names))
    results = [stands_for.get(value, value) for value in body.outputs]
    body.outputs.clear()
    for value, argument in stands_for.items():
        value.replace_all_uses_with(argument)
    moved = list(body)
    body.remove(moved)
    for inner in moved:
        names.settle(inner)
        for key, text in node.metadata_props.items():
            inner.metadata_props.setdefault(key, text)
    home.insert_before(node, moved)
    return results, moved


def why_odd(node: ir.Node, body: ir.Graph) -> str | None:
    """Return why the results of ``body`` cannot simply stand for those of ``node``, or None."""
    conditions = 1 if node.op_type == "Loop" else 0
    if len(node.outputs) != len(body.outputs) - conditions:
        return "it leaves out results of its body"
    for value in body.outputs:
        producer = value.producer()
        made_here = producer is not None and producer.graph is body
        if not made_here and value not in body.inputs and value.graph is not body:
            return f"its body returns {value.name}, which an outer graph holds"
        if node.op_type == "Loop" and value.is_initializer():
            return f"its body returns its constant {value.name}"
    return None


def hoist_initializers(
    body: ir.Graph, node: ir.Node, home: Home, names: Names
) -> Mapping[ir.Value, ir.Value]:
    """Copy the initializers of ``body`` to ``home``, sharing their data; map old to new."""
    hoisted = {}
    for value in list(body.initializers.values()):
        if value.const_value is not None and value not in body.inputs:
            name = names.fresh(value.name or "constant")
            hoisted[value] = add_constant(home, node, name, value.const_value)
    return hoisted


def take_results(node: ir.Node, results: Sequence[ir.Value], home: Home) -> None:
    """Let ``results`` stand for the outputs of ``node``, then remove ``node``.

    A graph output keeps its name: the result takes it over where a node of ``home`` makes it and
    it is no graph output itself; otherwise an Identity makes it.
    """
    for old, given in zip(node.outputs, results, strict=True):
        new = given
        if old.is_graph_output():
            producer = given.producer()
            movable = producer is not None and producer.graph is node.graph
            if not movable or given.is_graph_output():
                copy = ir.node("Identity", [given])
                home.insert_before(node, copy)
                new = copy.outputs[0]
        hand_over(old, new)
    release(node)
    home.remove(node, safe=True)
