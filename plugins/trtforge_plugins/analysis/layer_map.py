"""Which ONNX nodes are behind each engine layer, and which layers compute a node.

TensorRT names the nodes of most layers. It names none for layers that it adds: those that only
order streams or compute shapes are its own; a copy, or a step of an unrolled LSTM, is placed by
the tensors that it reads and writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from trtforge import EngineLayer
from trtforge.analysis import Origin
from trtforge.graph import is_op
from trtforge_plugins.computing_type import Evidence, evidence
from trtforge_plugins.running_type import RECURRENT, engine_name

_OWN_KINDS = frozenset({"signal", "wait", "shape_call", "noop", "no-op"})
"""Kinds that move no tensor: TensorRT adds them to order streams and to compute shapes."""


@dataclass(frozen=True)
class Place:
    """The nodes of one layer."""

    nodes: tuple[ir.Node, ...]
    unknown: tuple[str, ...]
    """Names that TensorRT gives and the model does not have."""
    origin: Origin


def map_layers(model: ir.Model, layers: Sequence[EngineLayer]) -> tuple[Place, ...]:
    """Return the nodes of each layer, in the layers' order."""
    by_name = {engine_name(node): node for node in model.graph}
    named = [_named(layer, by_name) for layer in layers]
    seen = {node for place in named for node in place.nodes}
    unrolled = [node for node in model.graph if is_op(node, *RECURRENT) and node not in seen]
    neighbours = _Neighbours(layers, named)
    return tuple(
        place if place.origin == "named" else _placed(layer, index, unrolled, neighbours)
        for index, (layer, place) in enumerate(zip(layers, named, strict=True))
    )


def _named(layer: EngineLayer, by_name: Mapping[str, ir.Node]) -> Place:
    nodes: dict[ir.Node, None] = {}
    unknown = []
    for name in layer.nodes:
        call = name.rpartition(" | ")[2].rpartition(" (")[0]  # "inner | call (Op)" in a function
        node = by_name.get(name) or (by_name.get(call) if " | " in name else None)
        if node is None:
            unknown.append(name)
        else:
            nodes[node] = None
    return Place(tuple(nodes), tuple(unknown), "named" if layer.nodes else "tensorrt")


def _placed(
    layer: EngineLayer, index: int, unrolled: Sequence[ir.Node], neighbours: _Neighbours
) -> Place:
    if layer.kind in _OWN_KINDS or not (layer.inputs or layer.outputs):
        return Place((), (), "tensorrt")
    works = evidence(layer) in (Evidence.DEDICATED, Evidence.FUSED)
    nodes = tuple(unrolled) if unrolled and works else neighbours.of(index)
    return Place(nodes, (), "inferred" if nodes else "tensorrt")


class _Neighbours:
    """The nearest layers with known nodes, along the tensors between layers."""

    def __init__(self, layers: Sequence[EngineLayer], places: Sequence[Place]) -> None:
        self._places = places
        self._next: list[set[int]] = [set() for _ in layers]
        makers: dict[str, int] = {}
        for index, layer in enumerate(layers):
            for tensor in layer.inputs:
                maker = makers.get(tensor.name)
                if maker is not None:
                    self._next[maker].add(index)
                    self._next[index].add(maker)
            makers.update((tensor.name, index) for tensor in layer.outputs)

    def of(self, start: int) -> tuple[ir.Node, ...]:
        """Return the nodes of the nearest layers that have some."""
        ring, seen = {start}, {start}
        while ring:
            ring = {each for index in ring for each in self._next[index]} - seen
            seen |= ring
            found = _nodes(self._places[index] for index in sorted(ring))
            if found:
                return found
        return ()


def _nodes(places: Iterable[Place]) -> tuple[ir.Node, ...]:
    return tuple(dict.fromkeys(node for place in places for node in place.nodes))
