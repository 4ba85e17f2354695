"""One session of a model in which each group of nodes is quantized or not, as a run asks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtforge import Range
from trtforge.graph import constant, label, unique_name
from trtforge.reference import Provider, Reference
from trtforge_plugins.precision.node_groups import Group
from trtforge_plugins.precision.placement import Point, Wanted, place
from trtforge_plugins.precision.qdq_writer import RULE_KEY, LinearWriter
from trtforge_plugins.precision.quantized_weights import FORMATS

if TYPE_CHECKING:
    from trtforge.artifacts import Array

    Feed = Mapping[str, Array]


def usable_points(
    model: ir.Model, wanted: Wanted, ranges: Mapping[str, Range]
) -> tuple[Point, ...]:
    """Return the points that ``insert-qdq`` can quantize with these ranges."""
    writer = LinearWriter(model, FORMATS[wanted.dtype], ranges)
    return tuple(
        point
        for node_points in _by_node(place(model, wanted).points)
        if not any(map(writer.why_not, node_points))
        for point in node_points
    )


@dataclass(frozen=True)
class _Weight:
    groups: frozenset[int]
    exact: Array
    rounded: Array


class Trial:
    """A model with Q/DQ pairs everywhere, and a switch for each group.

    A pair of an activation stands in an ``If`` on a Boolean input; a weight is an input, fed as it
    was or as its 8-bit numbers mean it. So another choice needs no other session, and the values
    are those of the model that ``insert-qdq`` makes.

    Args:
        model: The model before quantization; it stays as it is.
        groups: Groups of its :func:`usable_points`.
        ranges: By tensor name.
        wanted: The placement.
        provider: Where ONNX Runtime runs.
    """

    def __init__(
        self,
        model: ir.Model,
        groups: Sequence[Group],
        ranges: Mapping[str, Range],
        wanted: Wanted,
        provider: Provider = "auto",
    ) -> None:
        changed = model.clone()
        owner = {name: number for number, group in enumerate(groups) for name in group.nodes}
        points = [
            point for point in usable_points(changed, wanted, ranges) if label(point.node) in owner
        ]
        exact = {point: np.asarray(constant(point.constant)) for point in points if point.weight}
        writer = LinearWriter(changed, FORMATS[wanted.dtype], ranges)
        for node_points in _by_node(points):
            writer.apply(node_points)
        self._switches = [_switch(changed.graph, number) for number in range(len(groups))]
        for point in points:
            _put_behind(self._switches[owner[label(point.node)]], point, changed.graph)
        self._weights = _feed_weights(changed.graph, exact, owner)
        self._reference = Reference(changed, provider=provider)

    def run(self, feed: Feed, quantized: Collection[int]) -> dict[str, Array]:
        """Return the outputs with only the groups of these numbers quantized."""
        chosen = set(quantized)
        switches = {
            str(value.name): np.array(number in chosen)
            for number, value in enumerate(self._switches)
        }
        weights = {
            name: weight.rounded if weight.groups & chosen else weight.exact
            for name, weight in self._weights.items()
        }
        return self._reference.run({**feed, **switches, **weights})


def _by_node(points: Sequence[Point]) -> list[list[Point]]:
    return [list(found) for _, found in groupby(points, key=lambda point: point.node)]


def _switch(graph: ir.Graph, number: int) -> ir.Value:
    value = ir.Value(
        name=unique_name(graph, f"quantize_group_{number}"),
        type=ir.TensorType(ir.DataType.BOOL),
        shape=ir.Shape(()),
    )
    graph.inputs.append(value)
    return value


def _put_behind(switch: ir.Value, point: Point, graph: ir.Graph) -> None:
    """Put the pair that ``point`` reads into an If, unless it is in one already."""
    node, index = point.slot
    paired = node.inputs[index]
    dequantize = None if paired is None else paired.producer()
    if paired is None or dequantize is None or dequantize.op_type != "DequantizeLinear":
        return
    quantize = None if dequantize.inputs[0] is None else dequantize.inputs[0].producer()
    if quantize is None or RULE_KEY not in quantize.metadata_props:
        return
    source, scale, zero = quantize.inputs
    inner = ir.node("QuantizeLinear", (source, scale, zero))
    outer = ir.node("DequantizeLinear", (inner.outputs[0], scale, zero))
    same = ir.node("Identity", (source,))
    branches = {}
    for name, nodes in (("then_branch", (inner, outer)), ("else_branch", (same,))):
        result = nodes[-1].outputs[0]
        for number, each in enumerate(nodes):
            each.outputs[0].name = f"{paired.name}_{name}_{number}"
        result.type = paired.type
        branches[name] = ir.Graph([], [result], nodes=nodes, name=name)
    choice = ir.node("If", (switch,), branches, name=f"{paired.name}_choice")
    choice.outputs[0].type = paired.type
    graph.insert_after(dequantize, choice)
    paired.replace_all_uses_with(choice.outputs[0])
    graph.remove((quantize, dequantize), safe=True)


def _feed_weights(
    graph: ir.Graph, exact: Mapping[Point, Array], owner: Mapping[str, int]
) -> dict[str, _Weight]:
    """Make each quantized weight an input of the model and return what to feed."""
    found: dict[str, _Weight] = {}
    for point, array in exact.items():
        weight = point.constant
        if weight is None:
            continue
        dequantize = weight.producer()
        if dequantize is not None:
            fed = ir.Value(
                name=unique_name(graph, f"{weight.name}_fed"),
                type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
                shape=ir.Shape(array.shape),
            )
            rounded = _dequantized(dequantize, array)
            graph.inputs.append(fed)
            weight.replace_all_uses_with(fed)
            stored = [value for value in dequantize.inputs if value is not None]
            graph.remove(dequantize, safe=True)
            for value in stored:
                if not value.uses():
                    graph.initializers.pop(str(value.name), None)
            found[str(fed.name)] = _Weight(frozenset(), array, rounded)
            weight = fed
        name = str(weight.name)
        groups = found[name].groups | {owner[label(point.node)]}
        found[name] = _Weight(groups, found[name].exact, found[name].rounded)
    return found


def _dequantized(node: ir.Node, like: Array) -> Array:
    codes, scales = (np.asarray(constant(value)).astype(np.float32) for value in node.inputs[:2])
    axis = node.attributes.get_int("axis", 1)
    shape = [-1 if scales.ndim and i == axis else 1 for i in range(codes.ndim)]
    return (codes * scales.reshape(shape)).astype(like.dtype)
