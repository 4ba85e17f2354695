"""Grows the islands of float32 where that saves Casts: a minimum cut over the light nodes.

Each tensor whose producer and users differ in type costs one Cast, shared by all its users. Nodes
that must stay in float32 are on one side, heavy ones and all that must not on the other; the light
nodes between (data movement, elementwise, reductions, norms) go where the fewest Casts remain.
Such a placement is a minimum cut, with an auxiliary vertex a tensor and direction for the sharing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import onnx_ir as ir

from trtforge.graph import constant, is_op
from trtforge_plugins.precision.cast_operators import FLEXIBLE, FLOAT, HEAVY
from trtforge_plugins.precision.minimum_cut import INFINITE, Network

if TYPE_CHECKING:
    from trtforge_plugins.precision.cast_types import Decisions
    from trtforge_plugins.precision.element_types import Types

_CAST = 8
"""Cost of a Cast, where a light node in float32 costs 1: it moves twice the bytes, but TensorRT
fuses it with the Casts around it."""
_Side = Literal["float32", "low"]
_Vertex = ir.Node | _Side | tuple[ir.Value, _Side]


def worth_keeping(
    graph: ir.Graph, decisions: Decisions, types: Types, io: ir.DataType
) -> list[ir.Node]:
    """Return the light nodes of ``graph`` that save Casts by staying in float32.

    Args:
        graph: The main graph.
        decisions: What stays for other reasons.
        types: Element types before the change.
        io: Type of the model's float32 inputs and outputs from now on.
    """
    return _Islands(decisions, types, io).grown(graph)


class _Islands:
    def __init__(self, decisions: Decisions, types: Types, io: ir.DataType) -> None:
        self._decisions = decisions
        self._types = types
        self._io = io

    def grown(self, graph: ir.Graph) -> list[ir.Node]:
        """Return the nodes to add, in the graph's order."""
        if not self._decisions.kept:
            return []
        region = self._near_kept({node for node in graph if self._is_light(node)})
        network: Network[_Vertex] = Network()
        for node in region:
            network.join(node, "low", 1)
        for value in dict.fromkeys(v for node in region for v in self._floats(node)):
            self._join(network, value, region)
        kept = network.source_side("float32", "low")
        return [node for node in graph if node in region and node in kept]

    def _is_light(self, node: ir.Node) -> bool:
        """Whether the node may run in either type, and only in one type throughout."""
        decisions, low = self._decisions, self._decisions.low
        if node in decisions.kept or is_op(node, *HEAVY, *FLEXIBLE):
            return False
        if node.domain not in ("", "ai.onnx"):
            return False
        takes = {
            decisions.of_input(node, index)
            for index, value in enumerate(node.inputs)
            if value is not None and self._is_computed(value)
        }
        makes = {
            decisions.of_output(node, index)
            for index, value in enumerate(node.outputs)
            if self._is_computed(value)
        }
        return takes | makes == {low}

    def _is_computed(self, value: ir.Value) -> bool:
        return self._types.get(value) == FLOAT and constant(value) is None

    def _floats(self, node: ir.Node) -> Iterator[ir.Value]:
        for value in (*node.inputs, *node.outputs):
            if value is not None and self._is_computed(value):
                yield value

    def _near_kept(self, free: set[ir.Node]) -> dict[ir.Node, None]:
        """Return the free nodes that other free nodes join to a node that stays in float32."""
        region: dict[ir.Node, None] = {}
        todo = list(self._decisions.kept)
        while todo:
            for value in self._floats(todo.pop()):
                for node in (value.producer(), *(use for use, _ in value.uses())):
                    if node in free and node not in region and node is not None:
                        region[node] = None
                        todo.append(node)
        return region

    def _join(
        self, network: Network[_Vertex], value: ir.Value, region: dict[ir.Node, None]
    ) -> None:
        """Let ``value`` cost a Cast where the two ends differ, once for all its users."""
        maker = self._maker(value, region)
        users = list(self._users(value, region))
        if maker is None or not users:
            return
        down: _Vertex = (value, "low")
        up: _Vertex = (value, "float32")
        network.join(maker, down, _CAST)
        network.join(up, maker, _CAST)
        for user in users:
            network.join(down, user, INFINITE)
            network.join(user, up, INFINITE)

    def _maker(self, value: ir.Value, region: dict[ir.Node, None]) -> _Vertex | None:
        node = value.producer()
        if node is None:
            return self._side(self._io) if value.is_graph_input() else None
        if node in region or (node not in self._decisions.kept and is_op(node, *FLEXIBLE)):
            return node  # a flexible one goes wherever its users want it
        return self._side(self._decisions.of_output(node, value.index() or 0))

    def _users(self, value: ir.Value, region: dict[ir.Node, None]) -> Iterator[_Vertex]:
        for node, index in value.uses():
            if node in region:
                yield node
            elif node in self._decisions.kept or not is_op(node, *FLEXIBLE):
                yield self._side(self._decisions.of_input(node, index))
        if value.is_graph_output():
            yield self._side(self._io)

    def _side(self, dtype: ir.DataType) -> _Side:
        return "float32" if dtype == FLOAT else "low"
