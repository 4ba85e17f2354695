"""Cuts a model into pieces at chosen kernels; together they compute what the model does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from trtforge import ShapeRange, StepError
from trtforge.graph import bodies
from trtforge.subgraph import Cutter
from trtforge_plugins.memory.cuts import choose, in_a_row
from trtforge_plugins.memory.prediction import WORKSPACE, computed_values, sizes

Profile = Mapping[str, ShapeRange]


@dataclass
class Piece:
    """A part of a model, as a model of its own."""

    model: ir.Model
    profile: Profile
    """Range of each dynamic input."""
    between: int = 0
    """Bytes, at the largest shapes, of what goes from piece to piece and is kept while it runs."""


def pieces(model: ir.Model, profile: Profile, count: int) -> list[Piece]:
    """Return ``count`` pieces of ``model`` in the order in which they run.

    What is free or constant (reshapes, shapes, weights) is repeated where it is read, so that only
    tensors that kernels write go from piece to piece.

    Raises:
        StepError: there are fewer kernels than pieces, or a size or type is not known.
    """
    whole = InlinePass()(model.clone()).model if model.functions else model
    nodes = list(whole.graph)
    known = sizes(whole, {name: tuple(shapes.max) for name, shapes in profile.items()})

    def size(value: ir.Value) -> int:
        if value.name not in known:
            raise StepError(
                f"the size of {value.name!r} is not known, so the model cannot be split",
                remedy="run infer-shapes and fold-constants before",
            )
        return known[value.name]

    row = in_a_row(nodes, computed_values(whole.graph), size, WORKSPACE)
    begins = choose(row, count)
    home = {node: at for at, kernel in enumerate(row.kernels) for node in kernel.nodes}
    piece_of = {node: sum(at >= first for first in begins) for node, at in home.items()}
    found = list(_cut(whole, profile, nodes, _members(whole.graph, piece_of, count)))
    _keep_what_is_read(found, [value.name or "" for value in whole.graph.outputs])
    _count_between(found, known, {value.name or "" for value in whole.graph.outputs})
    return found


def _members(graph: ir.Graph, piece_of: Mapping[ir.Node, int], count: int) -> list[set[ir.Node]]:
    """Return the nodes of each piece: its kernels' and, repeated, what is free or constant."""
    members: list[set[ir.Node]] = [set() for _ in range(count)]
    for node, piece in piece_of.items():
        members[piece].add(node)
        members[piece] |= _free_before(_reads(node), piece_of)
    for value in graph.outputs:
        free = _free_before([value], piece_of)
        read = [each.producer() for node in free for each in _reads(node)]
        members[max((piece_of[node] for node in read if node and node in piece_of), default=0)] |= (
            free
        )
    return members


def _free_before(values: Sequence[ir.Value], piece_of: Mapping[ir.Node, int]) -> set[ir.Node]:
    """Return the nodes before ``values`` that are in no kernel, back to what kernels give."""
    found: set[ir.Node] = set()
    todo = list(values)
    while todo:
        node = todo.pop().producer()
        if node is not None and node not in piece_of and node not in found:
            found.add(node)
            todo += _reads(node)
    return found


def _reads(node: ir.Node) -> list[ir.Value]:
    """Return what ``node`` reads, its bodies' captured values included."""
    inner = [each for body in bodies(node) for each in body]
    return [
        *(value for value in node.inputs if value is not None),
        *(value for each in inner for value in _reads(each)),
    ]


def _cut(
    model: ir.Model, profile: Profile, nodes: Sequence[ir.Node], members: Sequence[set[ir.Node]]
) -> Iterator[Piece]:
    cutter = Cutter(model, profile)
    for number, mine in enumerate(members):
        later = set().union(*members[number + 1 :])
        # A node that is repeated reads here as well, which would hide that it reads there.
        also = {value.name or "" for node in later for value in _reads(node)}
        cut = cutter.cut([at for at, node in enumerate(nodes) if node in mine], also)
        if cut is None:
            raise StepError(
                f"type or shape of what goes into part {number} is not known, so the model cannot "
                "be split there",
                remedy="run fold-constants and infer-shapes before, or ask for fewer parts",
            )
        yield Piece(*cut)


def _keep_what_is_read(found: Sequence[Piece], outputs: Sequence[str]) -> None:
    """Leave each piece only those outputs that later pieces or the caller read, each once."""
    given: set[str] = set()
    for at, piece in enumerate(found):
        later = {value.name for each in found[at + 1 :] for value in each.model.graph.inputs}
        wanted = (later | set(outputs)) - given
        graph = piece.model.graph
        graph.outputs[:] = [value for value in graph.outputs if value.name in wanted]
        given |= {value.name or "" for value in graph.outputs}
    passed = {value.name for each in found for value in each.model.graph.inputs}
    if missing := sorted(set(outputs) - given - passed):
        raise StepError(f"no part gives the output {missing[0]!r}: no node computes it")


def _count_between(found: Sequence[Piece], known: Mapping[str, int], outputs: set[str]) -> None:
    for at, piece in enumerate(found):
        before = {v.name or "" for each in found[: at + 1] for v in each.model.graph.outputs}
        later = {v.name or "" for each in found[at:] for v in each.model.graph.inputs}
        after = {v.name or "" for each in found[at + 1 :] for v in each.model.graph.inputs}
        mine = {value.name or "" for value in piece.model.graph.outputs}
        kept = (before & (later - mine)) | (mine & after)
        piece.between = sum(known.get(name, 0) for name in kept - outputs)
