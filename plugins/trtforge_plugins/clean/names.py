"""Names for what a pass adds: unique in the whole model, in time linear over the pass."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import onnx_ir as ir
from trtforge.graph import graphs

if TYPE_CHECKING:
    from trtforge.artifacts import Array


class Names:
    """The names of all values of a model, in all its graphs.

    ONNX forbids that a subgraph reuses a name of an outer graph, so a name is fresh only when no
    graph of the model has it (https://onnx.ai/onnx/repo-docs/IR.html, "Names Within a Graph").
    """

    def __init__(self, model: ir.Model) -> None:
        self._uses: Counter[str | None] = Counter()
        for graph in graphs(model):
            own = {*graph.inputs, *(output for node in graph for output in node.outputs)}
            if isinstance(graph, ir.Graph):
                own.update(graph.initializers.values())
            self._uses.update(value.name for value in own)
        self._next: Counter[str] = Counter()

    def fresh(self, wish: str) -> str:
        """Return ``wish``, or ``wish_2`` and so on, and remember it as taken."""
        name = wish
        while name in self._uses:
            self._next[wish] += 1
            name = f"{wish}_{self._next[wish] + 1}"
        self._uses[name] += 1
        return name

    def settle(self, value: ir.Value) -> None:
        """Give ``value``, which moves to an outer graph, a new name where another value has it."""
        if self._uses[value.name] > 1:
            self._uses[value.name] -= 1
            value.name = self.fresh(value.name or "value")


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
    tensor = ir.tensor(array, name=name) if not isinstance(array, ir.TensorProtocol) else array
    if isinstance(home, ir.Graph):
        value = ir.Value(
            name=name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape),
            const_value=tensor,
        )
        home.register_initializer(value)
        return value
    return add_constant_node(home, before, name, tensor)


def add_constant_node(
    home: ir.Graph | ir.Function, before: ir.Node, name: str | None, tensor: ir.TensorProtocol
) -> ir.Value:
    """Add a Constant node before ``before`` and return its result."""
    node = ir.node("Constant", [], {"value": ir.AttrTensor("value", tensor)})
    result = node.outputs[0]
    result.name = name
    result.type = ir.TensorType(tensor.dtype)
    result.shape = ir.Shape(tensor.shape)
    home.insert_before(before, node)
    return result


def put_result(
    home: ir.Graph | ir.Function, node: ir.Node, value: ir.Value, array: Array
) -> ir.Value:
    """Let a constant take over name, uses and metadata of ``value``, a result of ``node``."""
    name = value.name or "constant"
    value.name = None
    if value.is_graph_output():
        # An initializer as a graph's result is legal, but several readers refuse it.
        fresh = add_constant_node(home, node, name, ir.tensor(array, name=name))
        fresh.type = value.type or fresh.type
        fresh.shape = value.shape or fresh.shape
    else:
        fresh = add_constant(home, node, name, array)
    fresh.metadata_props.update(value.metadata_props)
    ir.convenience.replace_all_uses_with(value, fresh, replace_graph_outputs=True)
    return fresh
