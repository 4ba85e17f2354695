"""Chooses where to cut a model into parts that run one after another, each an engine of its own.

The kernels of the model stand in a row, in the order in which they run. A cut between two of them
costs the bytes of the tensors that are written before and read after it: the caller has to keep
them. A part needs its weights and the most memory that is in use within it. Of all divisions whose
neediest part is within 10 % of the best possible, the one with the cheapest cuts is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from trtforge import StepError
from trtforge.graph import bodies
from trtforge_plugins.memory.kernels import Kernel, is_view, kernels, origin

PLACES = 200
"""Cuts that are considered; of a longer row, the cheapest of each stretch."""
SLACK = 1.1
Size = Callable[[ir.Value], int]


@dataclass(frozen=True)
class Row:
    """The kernels of a model in a row, with what they need."""

    kernels: Sequence[Kernel]
    live: Sequence[int]
    """Bytes of the tensors, and of the workspace, that are in use at each kernel."""
    crossing: Sequence[int]
    """Bytes of the tensors that a cut behind each kernel hands from part to part."""
    weights: Sequence[Mapping[ir.Value, int]]
    """Bytes of the constants that each kernel reads."""


def in_a_row(nodes: Sequence[ir.Node], computed: set[ir.Value], size: Size, scratch: int) -> Row:
    """Return the kernels of a graph in a row.

    Args:
        nodes: Of the graph, in topological order.
        computed: Values that depend on the model's inputs.
        size: Bytes of a value.
        scratch: Bytes of workspace of a kernel that asks for one.
    """
    nodes = _needed(nodes)
    row = [Kernel([node]) for node in nodes if any(out in computed for out in node.outputs)]
    if not any(True for node in nodes for _ in bodies(node)):  # kernels() knows no captured values
        row = kernels(nodes, computed)
    place = {
        inner: at
        for at, kernel in enumerate(row)
        for node in kernel.nodes
        for inner in _with_bodies(node)
    }
    live = [scratch if kernel.needs_workspace else 0 for kernel in row]
    crossing = [0] * len(row)
    for at, kernel in enumerate(row):
        for value in (value for node in kernel.nodes for value in node.outputs):
            last = _last_reader(value, place)
            if last is None or last == at:
                continue
            bytes_of_it = size(value)
            for step in range(at, last + 1):
                live[step] += bytes_of_it
                crossing[step] += bytes_of_it if step < last else 0
    weights = [
        {value: held for node in kernel.nodes for value, held in _constants(node, computed)}
        for kernel in row
    ]
    return Row(row, live, crossing, weights)


def _constants(node: ir.Node, computed: set[ir.Value]) -> Iterator[tuple[ir.Value, int]]:
    """Yield the constants that a node reads, and their bytes.

    Those behind nodes that are constant themselves count as well, as behind the DequantizeLinear of
    quantized weights.
    """
    todo = list(node.inputs)
    while todo:
        given = todo.pop()
        value = None if given is None else origin(given)
        if value is None:
            continue
        writer = value.producer()
        if value.const_value is not None:
            yield value, value.const_value.nbytes
        elif value not in computed and writer is not None:
            todo += writer.inputs


def choose(row: Row, parts: int) -> list[int]:
    """Return the first kernel of each part but the first.

    Raises:
        StepError: there are fewer kernels than parts.
    """
    if parts > len(row.kernels):
        raise StepError(
            f"the model has {len(row.kernels)} kernels and cannot be split into {parts} parts",
            remedy="ask for fewer parts",
        )
    places = [0, *_places(row, parts), len(row.kernels)]
    need = _needs(row, places)
    most = _best(need, parts, lambda so_far, first, last: max(so_far, need[first][last]))
    limit = int(most[0] * SLACK)

    def dearer(so_far: int, first: int, last: int) -> int:
        cut = row.crossing[places[first] - 1] if first else 0
        return so_far + cut + (0 if need[first][last] <= limit else _TOO_MUCH)

    return [places[at] for at in _best(need, parts, dearer)[1]]


_TOO_MUCH = 1 << 60


def _places(row: Row, parts: int) -> list[int]:
    """Return the kernels before which a cut is considered."""
    inner = range(1, len(row.kernels))
    count = min(len(inner), max(PLACES, parts))
    stretches = [
        inner[len(inner) * n // count : len(inner) * (n + 1) // count] for n in range(count)
    ]
    return [min(part, key=lambda at: row.crossing[at - 1]) for part in stretches]


def _needs(row: Row, places: Sequence[int]) -> list[dict[int, int]]:
    """Return for each first place what the parts that start there need, by the place they end."""
    found: list[dict[int, int]] = []
    for first in range(len(places) - 1):
        read: dict[ir.Value, int] = {}
        highest, total, mine = 0, 0, {}
        for last in range(first + 1, len(places)):
            for at in range(places[last - 1], places[last]):
                highest = max(highest, row.live[at])
                for value, count in row.weights[at].items():
                    total += count if value not in read else 0
                    read[value] = count
            mine[last] = total + highest
        found.append(mine)
    return found


def _best(
    need: Sequence[Mapping[int, int]], parts: int, grow: Callable[[int, int, int], int]
) -> tuple[int, list[int]]:
    """Return the least figure of all divisions, and the places where its parts begin.

    Args:
        need: What the parts need; says which there are.
        parts: How many.
        grow: Returns the figure with one more part, from a first to a last place.
    """
    end = len(need)
    best: dict[int, tuple[int, list[int]]] = {0: (0, [])}
    for number in range(parts):
        grown: dict[int, tuple[int, list[int]]] = {}
        for first, (so_far, cuts) in best.items():
            for last in need[first] if first < end else ():
                if (last == end) != (number == parts - 1):
                    continue
                figure = grow(so_far, first, last)
                if last not in grown or figure < grown[last][0]:
                    grown[last] = (figure, [*cuts, first] if first else cuts)
        best = grown
    return best[end]


def _last_reader(value: ir.Value, place: Mapping[ir.Node, int]) -> int | None:
    """Return the last kernel that reads ``value``, also through views; None where none does."""
    found = []
    for node in value.consumers():
        if node in place:
            found.append(place[node])
        elif is_view(node):
            found += [at for out in node.outputs if (at := _last_reader(out, place)) is not None]
    return max(found, default=None)


def _needed(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """Return the nodes that an output of the graph depends on."""
    needed: set[ir.Node] = set()
    for node in reversed(nodes):
        if any(
            value.is_graph_output() or any(use.node in needed for use in value.uses())
            for value in node.outputs
        ):
            needed.update(_with_bodies(node))
    return [node for node in nodes if node in needed]


def _with_bodies(node: ir.Node) -> Iterator[ir.Node]:
    """Yield a node and all nodes in its bodies: what these capture, it reads."""
    yield node
    for body in bodies(node):
        for inner in body:
            yield from _with_bodies(inner)
