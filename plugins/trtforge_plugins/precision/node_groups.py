"""The natural units of a choice of precision: nodes that share a quantized tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from trtforge.graph import label
from trtforge_plugins.macs import heavy_nodes, total_macs
from trtforge_plugins.precision.placement import Point


@dataclass(frozen=True)
class Group:
    """Points that are quantized together: leaving out one alone would not spare a Q/DQ pair."""

    points: tuple[Point, ...]
    macs: int
    """Multiply-accumulates of one run; 0 where they are not known."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the nodes, each once, in graph order."""
        return tuple(dict.fromkeys(label(point.node) for point in self.points))


def node_groups(
    model: ir.Model, points: Sequence[Point], shapes: Mapping[str, Sequence[int]]
) -> tuple[tuple[Group, ...], int]:
    """Return the groups in graph order, and the multiply-accumulates of the whole model.

    Args:
        model: The model that the points lie in.
        points: A placement's; those that read one tensor, or belong to one node, make a group.
        shapes: Shape of each input, to count multiply-accumulates with.
    """
    first: dict[ir.Value | ir.Node, int] = {}
    groups: dict[int, list[Point]] = {}
    for number, point in enumerate(points):
        keys = (point.source, point.node)
        known = sorted({first[key] for key in keys if key in first} | {number})
        groups[known[0]] = [each for old in known for each in groups.pop(old, [])] + [point]
        joined = set(known)
        first.update({key: known[0] for key, old in first.items() if old in joined})
        first.update(dict.fromkeys(keys, known[0]))
    heavy = heavy_nodes(model, shapes)
    macs = {node.name: node.macs or 0 for node in heavy}
    found = [Group(tuple(each), 0) for _, each in sorted(groups.items())]
    counted = tuple(
        Group(group.points, sum(macs.get(name, 0) for name in group.nodes)) for group in found
    )
    return counted, total_macs(heavy)
