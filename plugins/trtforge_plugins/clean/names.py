"""Names for what a pass adds: unique in the whole model, in time linear over the pass."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtforge.graph import graphs

if TYPE_CHECKING:
    from trtforge.artifacts import Array


class Names:
    """The names of all values and nodes of a model, in all its graphs.

    ONNX forbids that a subgraph reuses a value's name of an outer graph, so a name is fresh only
    when no graph of the model has it (https://onnx.ai/onnx/repo-docs/IR.html, "Names Within a
    Graph"); ONNX Runtime asks the same of nodes' names within one graph.
    """

    def __init__(self, model: ir.Model) -> None:
        self._values = _Taken()
        self._nodes = _Taken()
        for graph in graphs(model):
            self._add(graph)

    def fresh(self, wish: str) -> str:
        """Return ``wish``, or ``wish_2`` and so on, as the name of a new value."""
        return self._values.fresh(wish)

    def add(self, graph: ir.Graph) -> None:
        """Take the names of ``graph``, which is new, and of its subgraphs into account."""
        for inner in (graph, *graph.subgraphs()):
            self._add(inner)

    def settle(self, node: ir.Node) -> None:
        """Give ``node``, which moves to an outer graph, and its results names of their own."""
        if node.name:
            node.name = self._nodes.settled(node.name)
        for value in node.outputs:
            if value.name:
                value.name = self._values.settled(value.name)

    def _add(self, graph: ir.Graph | ir.Function) -> None:
        own = {*graph.inputs, *(output for node in graph for output in node.outputs)}
        if isinstance(graph, ir.Graph):
            own.update(graph.initializers.values())
        self._values.uses.update(value.name or "" for value in own)
        self._nodes.uses.update(node.name or "" for node in graph)


class _Taken:
    """How often each name is in use, and where to go on looking for a free one."""

    def __init__(self) -> None:
        self.uses: Counter[str] = Counter()
        self._tried: Counter[str] = Counter()

    def fresh(self, wish: str) -> str:
        name = wish
        while self.uses[name]:
            self._tried[wish] += 1
            name = f"{wish}_{self._tried[wish] + 1}"
        self.uses[name] += 1
        return name

    def settled(self, name: str) -> str:
        """Return ``name`` if it is in use once, else a fresh one in its place."""
        if self.uses[name] <= 1:
            return name
        self.uses[name] -= 1
        return self.fresh(name)


def add_constant(
    home: ir.Graph | ir.Function, before: ir.Node, name: str, array: Array | ir.TensorProtocol
) -> ir.Value:
    """Add a constant named ``name``: an initializer, or in a function, which has none, a node.

    Args:
        home: The graph that ``before`` is in.
        before: The node that needs the constant.
        name: A name that is free in ``home``.
        array: The value, of any shape and type; a tensor is shared, not copied.
    """
    tensor = _tensor(array, name)
    if isinstance(home, ir.Graph):
        value = ir.Value(
            name=name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
        )
        home.register_initializer(value)
        return value
    return add_constant_node(home, before, name, tensor)


def _tensor(array: Array | ir.TensorProtocol, name: str) -> ir.TensorProtocol:
    return ir.Tensor(array, name=name) if isinstance(array, np.ndarray | np.generic) else array


def add_constant_node(
    home: ir.Graph | ir.Function, before: ir.Node, name: str | None, tensor: ir.TensorProtocol
) -> ir.Value:
    """Add a Constant node before ``before`` and return its result."""
    node = ir.node("Constant", [], {"value": ir.AttrTensor("value", tensor)})
    result = node.outputs[0]
    result.name = name
    result.type = ir.TensorType(tensor.dtype)
    result.shape = ir.Shape(tensor.shape.numpy())
    home.insert_before(before, node)
    return result


def put_result(
    home: ir.Graph | ir.Function, node: ir.Node, value: ir.Value, array: Array | ir.TensorProtocol
) -> ir.Value:
    """Let a constant take over name, uses and metadata of ``value``, a result of ``node``."""
    name = value.name or "constant"
    value.name = None
    if value.is_graph_output():
        # An initializer as a graph's result is legal, but several readers refuse it.
        fresh = add_constant_node(home, node, name, _tensor(array, name))
        fresh.type = value.type or fresh.type
        fresh.shape = value.shape or fresh.shape
    else:
        fresh = add_constant(home, node, name, array)
    fresh.metadata_props.update(value.metadata_props)
    ir.convenience.replace_all_uses_with(value, fresh, replace_graph_outputs=True)
    return fresh


def hand_over(old: ir.Value, new: ir.Value) -> None:
    """Let ``new`` take over the uses of ``old`` and, where it is a graph output, its name."""
    if old.is_graph_output():
        name, old.name = old.name, None
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        new.name = name
        new.type, new.shape = old.type or new.type, old.shape or new.shape
    else:
        ir.convenience.replace_all_uses_with(old, new)
        new.type, new.shape = new.type or old.type, new.shape or old.shape
    new.metadata_props.update({**old.metadata_props, **new.metadata_props})
