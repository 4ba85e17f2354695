"""Places for the nodes of a directed graph, in layers: Sugiyama, Tagawa, Toda (1981), simplified.

A node's layer is the longest path to it; within a layer nodes are ordered by the mean place of the
nodes that they read (the barycentre rule), down and up a few times.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

_ROUNDS = 4


def layered(count: int, edges: Sequence[tuple[int, int]]) -> list[tuple[int, float]]:
    """Return the layer (from 0) and the place across it of each node; the middle is 0.

    Nodes are in an order in which each edge goes from an earlier to a later one, as in an ONNX
    graph. Time grows with nodes and edges, not with their product.
    """
    before: dict[int, list[int]] = defaultdict(list)
    after: dict[int, list[int]] = defaultdict(list)
    depth = [0] * count
    for start, end in sorted(edges, key=lambda edge: edge[1]):
        before[end].append(start)
        after[start].append(end)
        depth[end] = max(depth[end], depth[start] + 1)
    _pull(depth, before, after)
    rows: dict[int, list[int]] = defaultdict(list)
    for node in range(count):
        rows[depth[node]].append(node)
    across = [0.0] * count
    for row in rows.values():
        _spread(row, across)
    for turn in range(_ROUNDS):
        near = before if turn % 2 == 0 else after
        for level in sorted(rows, reverse=turn % 2 == 1):
            rows[level].sort(key=lambda node: _mean(near[node], across, across[node]))
            _spread(rows[level], across)
    return list(zip(depth, across, strict=True))


def _pull(depth: list[int], before: dict[int, list[int]], after: dict[int, list[int]]) -> None:
    """Move nodes that read nothing to the layer above their first reader."""
    for node in range(len(depth)):
        if not before[node] and after[node]:
            depth[node] = min(depth[reader] for reader in after[node]) - 1


def _mean(nodes: Sequence[int], across: Sequence[float], own: float) -> float:
    return sum(across[node] for node in nodes) / len(nodes) if nodes else own


def _spread(row: Sequence[int], across: list[float]) -> None:
    for place, node in enumerate(row):
        across[node] = place - (len(row) - 1) / 2
