"""Minimum s-t cut by Dinic's algorithm (Dinitz 1970), on integer capacities."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
INFINITE = 1 << 60


class Network(Generic[Key]):
    """A flow network whose vertices are any hashable keys."""

    def __init__(self) -> None:
        self._vertices: dict[Key, int] = {}
        self._edges: list[list[int]] = []  # by vertex: numbers of edges; number ^ 1 is the reverse
        self._to: list[int] = []
        self._left: list[int] = []

    def join(self, tail: Key, head: Key, capacity: int) -> None:
        """Add an edge from ``tail`` to ``head``."""
        for start, end, amount in ((tail, head, capacity), (head, tail, 0)):
            self._edges[self._vertex(start)].append(len(self._to))
            self._to.append(self._vertex(end))
            self._left.append(amount)

    def source_side(self, source: Key, sink: Key) -> set[Key]:
        """Return the smallest set with ``source`` and without ``sink`` that is a minimum cut."""
        start, end = self._vertex(source), self._vertex(sink)
        while (levels := self._levels(start))[end] >= 0:
            self._saturate(start, end, levels)
        return {key for key, vertex in self._vertices.items() if levels[vertex] >= 0}

    def _vertex(self, key: Key) -> int:
        number = self._vertices.setdefault(key, len(self._edges))
        if number == len(self._edges):
            self._edges.append([])
        return number

    def _levels(self, start: int) -> list[int]:
        """Return each vertex's distance from ``start`` over edges with capacity left, or -1."""
        levels = [-1] * len(self._edges)
        levels[start] = 0
        todo = deque([start])
        while todo:
            vertex = todo.popleft()
            for edge in self._edges[vertex]:
                if self._left[edge] and levels[self._to[edge]] < 0:
                    levels[self._to[edge]] = levels[vertex] + 1
                    todo.append(self._to[edge])
        return levels

    def _saturate(self, start: int, end: int, levels: list[int]) -> None:
        """Push a blocking flow: no path along rising levels is left."""
        tried = [0] * len(self._edges)  # by vertex: its first edge that may still lead on
        path: list[int] = []
        vertex = start
        while True:
            if vertex == end:
                self._push(path)
                path, vertex = [], start
            edges = self._edges[vertex]
            while tried[vertex] < len(edges):
                edge = edges[tried[vertex]]
                if self._left[edge] and levels[self._to[edge]] == levels[vertex] + 1:
                    break
                tried[vertex] += 1
            if tried[vertex] < len(edges):
                path.append(edge)
                vertex = self._to[edge]
            elif path:  # a dead end: one step back, and never this way again
                vertex = self._to[path.pop() ^ 1]
                tried[vertex] += 1
            else:
                return

    def _push(self, path: list[int]) -> None:
        amount = min(self._left[edge] for edge in path)
        for edge in path:
            self._left[edge] -= amount
            self._left[edge ^ 1] += amount
