"""Finds the engine layers that do the work of an ONNX node, and the type in which they do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from trtforge import EngineLayer
from trtforge.graph import constant, is_op
from trtforge_plugins.computing_type import Evidence, computing_types, evidence

RECURRENT = ("LSTM", "GRU", "RNN")
_SMALL = 4096  # elements; larger weights are told apart by identity, not by content


@dataclass(frozen=True)
class Finding:
    """The type in which a node runs, and the layer that shows it."""

    dtype: str
    """In ONNX's spelling, lower case."""
    layer: EngineLayer


def find_types(heavy: Sequence[ir.Node], layers: Sequence[EngineLayer]) -> dict[ir.Node, Finding]:
    """Return the type of each heavy node that the engine shows."""
    located = _Locator(heavy, layers)
    found = {node: finding for node in heavy if (finding := located.find(node)) is not None}
    if len(found) < len(heavy):  # TensorRT computes equal nodes once, under the name of one
        numbers = _number_computations(heavy[0].graph)
        same = {numbers[node]: finding for node, finding in found.items() if node in numbers}
        for node in heavy:
            if node not in found and numbers.get(node) in same:
                found[node] = same[numbers[node]]
    return found


class _Locator:
    """Finds the layers that do the work of a node, among all that name it."""

    def __init__(self, heavy: Sequence[ir.Node], layers: Sequence[EngineLayer]) -> None:
        self._by_node: dict[str, list[EngineLayer]] = {}
        for layer in layers:
            for name in layer.nodes:
                self._by_node.setdefault(name, []).append(layer)
                if " | " in name:  # inside a function: "inner | call (Op)"
                    call = name.rpartition(" | ")[2].rpartition(" (")[0]
                    self._by_node.setdefault(call, []).append(layer)
        self._heavy_names = {engine_name(node) for node in heavy}
        self._unnamed = [
            layer
            for layer in layers
            if not layer.nodes and evidence(layer) in (Evidence.DEDICATED, Evidence.FUSED)
        ]

    def find(self, node: ir.Node) -> Finding | None:
        layers = self._working_layers(node)
        types = frozenset[str]().union(*map(computing_types, layers))
        if not types or any(not computing_types(layer) for layer in layers):
            return None
        own = onnx_dtype(node.inputs[0])
        if len(types) > 1 and own in types:  # a strongly typed network computes as ONNX says
            types = frozenset({own})
        if len(types) > 1:
            return None
        dtype = next(iter(types))
        return Finding(dtype, next(one for one in layers if dtype in computing_types(one)))

    def _working_layers(self, node: ir.Node) -> list[EngineLayer]:
        """Return the layers with the clearest evidence that serve the fewest other heavy nodes.

        A node is also named by layers that only scale its result or pad its input, and by a fusion
        of that with the next node's multiplication.
        """
        if is_op(node, *RECURRENT):
            return self._unnamed  # TensorRT unrolls them into layers without ONNX names
        named = self._by_node.get(engine_name(node), [])
        ranks = {id(layer): rank for layer in named if (rank := evidence(layer)) is not None}
        best = min(ranks.values(), default=None)
        if best is None or (best is Evidence.SPELLED_OUT and self._unnamed):
            return []  # an element-wise layer could be the mere rest of an unnamed one
        clear = [layer for layer in named if ranks.get(id(layer)) == best]
        fewest = min(self._heavy_count(layer) for layer in clear)
        return [layer for layer in clear if self._heavy_count(layer) == fewest]

    def _heavy_count(self, layer: EngineLayer) -> int:
        return sum(name in self._heavy_names for name in layer.nodes)


def engine_name(node: ir.Node) -> str:
    """Return the node's name in TensorRT, which names an unnamed node after its first output."""
    return node.name or f"node_of_{node.outputs[0].name}"


def onnx_dtype(value: ir.Value | None) -> str | None:
    """Return the element type of ``value`` as ``float32``, ``float8e4m3fn``, …; None: not known."""
    if value is None or value.dtype is None:
        return None
    return "float32" if value.dtype is ir.DataType.FLOAT else value.dtype.name.lower()


def _number_computations(graph: ir.Graph | ir.Function | None) -> dict[ir.Node, int]:
    """Give nodes of ``graph`` that compute the same from the same inputs the same number."""
    numbers: dict[object, int] = {}
    values: dict[ir.Value | None, object] = {None: None}
    result: dict[ir.Node, int] = {}
    for node in graph or ():
        for value in node.inputs:
            if value not in values:
                values[value] = _content(value)
        attributes = tuple(sorted((key, _attribute(a)) for key, a in node.attributes.items()))
        key = (node.op_identifier(), attributes, tuple(values[value] for value in node.inputs))
        result[node] = numbers.setdefault(key, len(numbers))
        for index, output in enumerate(node.outputs):
            values[output] = (result[node], index)
    return result


def _content(value: ir.Value | None) -> object:
    array = constant(value)
    if array is None or array.size > _SMALL:
        return id(value)
    return str(array.dtype), array.shape, array.tobytes()


def _attribute(attribute: ir.Attr) -> str:
    plain = isinstance(attribute.value, int | float | str | bytes | tuple | list)
    return repr(attribute.value) if plain else str(id(attribute))
