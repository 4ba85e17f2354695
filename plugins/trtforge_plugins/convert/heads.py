"""Finds the products whose results an attention reads, head by head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import onnx_ir as ir

from trtforge.graph import constant, is_op, scalar
from trtforge_plugins.convert.builder import rank
from trtforge_plugins.convert.facts import attribute, axis_of, declared_size
from trtforge_plugins.convert.matrices import Matrix, fixed

_HEADS_FIRST, _TURNED, _STACK_FIRST = (0, 2, 1, 3), (0, 2, 3, 1), (2, 0, 3, 1, 4)
_NEAR = 64  # nodes between a product and the Softmax of its attention; rotations have about twenty


@dataclass(frozen=True)
class Piece:
    """A part of a product's columns as an attention reads it.

    ``value`` has the shape ``[batch, heads, length, size]``, or with the last two exchanged where
    it is ``turned``.
    """

    value: ir.Value
    heads: int
    turned: bool = False


@dataclass(frozen=True)
class Projection:
    """The product of a tensor ``[batch, length, depth]`` with a matrix, a bias, and its pieces."""

    product: ir.Node
    add: ir.Node | None
    weight: Matrix
    bias: ir.TensorProtocol | None
    width: int
    """Columns of the matrix."""
    size: int
    """Columns of a head."""
    parts: Mapping[ir.Value, int]
    """The results that are reshaped, and how many columns each has; the last ones of ``flat``."""
    pieces: tuple[tuple[Piece, ...], ...]
    """In the order of the columns; several of one entry are the same in two forms."""

    @classmethod
    def find(cls, product: ir.Node) -> Projection | None:
        """Return the projection that ``product`` computes, if it is one."""
        weight = Matrix.find(product.inputs[1])
        if weight is None or rank(product.inputs[0]) != 3:
            return None
        width = weight.width
        add, bias = _bias(product.outputs[0], width)
        parts = _parts((add or product).outputs[0], width)
        found = [_pieces(part, columns, product.inputs[0]) for part, columns in parts.items()]
        known = [each for each in found if each is not None]
        if not known or len(known) < len(found) or len({size for size, _ in known}) > 1:
            return None
        pieces = tuple(piece for _, pieces in known for piece in pieces)
        return cls(product, add, weight, bias, width, known[0][0], parts, pieces)

    @property
    def flat(self) -> ir.Value:
        """The result, with the bias, before it is cut or reshaped."""
        return (self.add or self.product).outputs[0]


def _readers(value: ir.Value) -> list[ir.Node]:
    """Return the nodes that read ``value``, apart from those that only ask for its shape."""
    nodes = {use.node: None for use in value.uses()}
    return [node for node in nodes if not is_op(node, "Shape")]


def _bias(result: ir.Value, width: int) -> tuple[ir.Node | None, ir.TensorProtocol | None]:
    """Return the Add of a bias that is the only reader of ``result``, and the bias."""
    readers = _readers(result)
    if len(readers) != 1 or not is_op(readers[0], "Add") or result.is_graph_output():
        return None, None
    (add,) = readers
    other = add.inputs[1] if add.inputs[0] is result else add.inputs[0]
    held = fixed(other)
    fits = held is not None and len(held.shape) == 1 and held.shape[0] == width
    return (add, held) if fits else (None, None)


def _parts(flat: ir.Value, width: int) -> dict[ir.Value, int]:
    """Return what ``flat`` is cut into along its last axis, each with its number of columns.

    That is ``flat`` itself where it is not cut, and nothing where a part is missing.
    """
    readers = _readers(flat)
    if len(readers) == 1 and is_op(readers[0], "Split"):
        sizes = [declared_size(value, -1) or 0 for value in readers[0].outputs]
        ends = list(accumulate(sizes)) if _axis(readers[0], flat) == 2 else []
        cuts = list(zip([0, *ends], ends, readers[0].outputs, strict=False))
    elif readers and all(is_op(reader, "Slice") for reader in readers):
        spans = [_span(reader, flat, width) for reader in readers]
        whole = zip(spans, readers, strict=True)
        cuts = sorted((*span, reader.outputs[0]) for span, reader in whole if span)
    else:
        return {flat: width}
    starts, ends = [start for start, _, _ in cuts], [end for _, end, _ in cuts]
    if [*starts, width] != [0, *ends]:
        return {}
    return {value: end - start for start, end, value in cuts}


def _axis(node: ir.Node, value: ir.Value) -> int | None:
    return axis_of(attribute(node, "axis", 0), value)


def _span(node: ir.Node, flat: ir.Value, width: int) -> tuple[int, int] | None:
    """Return the columns that a Slice takes; None where it does something else."""
    bounds = _bounds(node)
    if bounds is None or axis_of(bounds[2], flat) != 2:
        return None
    start, end = (each + width * (each < 0) for each in bounds[:2])
    return start, min(end, width)


def _bounds(node: ir.Node) -> tuple[int, int, int] | None:
    """Return start, end and axis of a Slice along one axis by steps of 1."""
    numbers = [scalar(value) for value in node.inputs[1:]]
    if len(numbers) < 3 or numbers[3:] not in ([], [1]):
        return None
    start, end, axis = numbers[:3]
    return (
        None if start is None or end is None or axis is None else (int(start), int(end), int(axis))
    )


def _pieces(
    part: ir.Value, width: int, source: ir.Value | None
) -> tuple[int, list[tuple[Piece, ...]]] | None:
    """Return the size of a head and the pieces that come from one part of a product."""
    readers = _readers(part)
    if len(readers) != 1 or not is_op(readers[0], "Reshape") or part.is_graph_output():
        return None
    (result,) = readers[0].outputs
    heads = declared_size(result, -2)
    if not heads or result.is_graph_output() or not _keeps_rows(readers[0], source):
        return None
    after = [use.node for use in result.uses()]
    perms = [_perm(node) for node in after]
    if rank(result) == 4 and sorted(perms) in _SINGLE:
        found = zip(after, perms, strict=True)
        same = tuple(Piece(node.outputs[0], heads, perm == _TURNED) for node, perm in found)
        return width // heads, [same]
    if rank(result) == 5 and perms == [_STACK_FIRST]:
        pieces = _stacked(after[0].outputs[0], heads)
        return (width // heads // len(pieces), pieces) if pieces else None
    return None


_SINGLE = ([_HEADS_FIRST], [_TURNED], [_HEADS_FIRST, _TURNED])


def _perm(node: ir.Node) -> tuple[int, ...]:
    return tuple(attribute(node, "perm", ())) if is_op(node, "Transpose") else ()


def _stacked(stack: ir.Value, heads: int) -> list[tuple[Piece, ...]]:
    """Return the entries of ``[count, batch, heads, length, size]``; none if one is missing."""
    taken: dict[int, ir.Value | None] = {}
    readers = [use.node for use in stack.uses()]
    for reader in readers:
        if is_op(reader, "Split") and attribute(reader, "axis", 0) == 0:
            taken.update(enumerate(map(_squeezed, reader.outputs)))
        elif is_op(reader, "Slice"):
            start, end, axis = _bounds(reader) or (0, 0, 0)
            if (end, axis) == (start + 1, 0):
                taken[start] = _squeezed(reader.outputs[0])
        elif is_op(reader, "Gather") and attribute(reader, "axis", 0) == 0:
            index = scalar(reader.inputs[1])
            if index is not None and rank(reader.inputs[1]) == 0:
                taken[int(index)] = reader.outputs[0]
    entries = [taken.get(index) for index in range(declared_size(stack, 0) or 0)]
    pieces: list[tuple[Piece, ...]] = [
        (Piece(value, heads),) for value in entries if value is not None
    ]
    one_reader = any(is_op(reader, "Split") for reader in readers)
    return (
        pieces if len(pieces) == len(entries) and len(readers) in (len(pieces), one_reader) else []
    )


def _squeezed(entry: ir.Value) -> ir.Value | None:
    """Return ``entry`` without its first dimension, if that is all it is read for."""
    readers = [use.node for use in entry.uses()]
    if len(readers) != 1 or not is_op(readers[0], "Squeeze") or entry.is_graph_output():
        return None
    return readers[0].outputs[0] if rank(readers[0].outputs[0]) == 4 else None


def _keeps_rows(reshape: ir.Node, source: ir.Value | None) -> bool:
    """Whether the first two dimensions of the result are those of ``source``.

    One that is equal makes the other one so, as the other dimensions are as large as a row.
    """
    (result,) = reshape.outputs
    if source is None or source.shape is None or result.shape is None:
        return False
    target = None if attribute(reshape, "allowzero", 0) else constant(reshape.inputs[1])
    for axis in (0, 1):
        before, after = source.shape[axis], result.shape[axis]
        known = before > 0 if isinstance(before, int) else before.value is not None
        if known and (before == after or (target is not None and target[axis] == 0)):
            return True
    return False


def attention_of(projection: Projection) -> ir.Node | None:
    """Return the Softmax of the attention that reads all pieces, if there is one."""
    found = {_softmax_after(piece.value) for same in projection.pieces for piece in same}
    return found.pop() if len(found) == 1 else None


def _softmax_after(value: ir.Value) -> ir.Node | None:
    """Return the Softmax that ``value`` flows into, or whose result it is multiplied by."""
    todo, seen = [value], {value}
    while todo and len(seen) < _NEAR:
        for use in todo.pop(0).uses():
            if is_op(use.node, "Softmax"):
                return use.node
            if is_op(use.node, "MatMul") and use.idx == 1:
                before = _softmax_before(use.node.inputs[0])
                if before is not None:
                    return before
            fresh = [each for each in use.node.outputs if each not in seen]
            seen.update(fresh)
            todo += fresh
    return None


def _softmax_before(value: ir.Value | None) -> ir.Node | None:
    """Return the Softmax that ``value`` comes from, with at most masks and casts between."""
    for _ in range(4):
        node = None if value is None else value.producer()
        if node is None or is_op(node, "Softmax"):
            return node
        if not is_op(node, "Where", "Cast", "Mul", "Identity", "Dropout", "Reshape"):
            return None
        value = node.inputs[2 if is_op(node, "Where") else 0]
    return None


def turned_by(value: ir.Value) -> list[ir.Value]:
    """Return what ``value`` of rank 4 becomes where its last two axes are exchanged."""
    return [use.node.outputs[0] for use in value.uses() if _perm(use.node) == (0, 1, 3, 2)]
