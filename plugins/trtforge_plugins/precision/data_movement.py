"""Where a Q/DQ pair stands along operators that only move data.

Quantizing commutes with them, so the pair stands as far up as it can: then one QuantizeLinear
serves all readers, data moves as 8-bit numbers, and TensorRT-RTX 1.7 keeps a product whose result
is cut into Q, K and V in INT8 (``docs/targets.md``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx_ir as ir

from trtforge.graph import constant, is_op

Slot = tuple[ir.Node, int]
"""One input of a node."""

_MOVES = ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity")
_CUTS = ("Split", "Slice", "Gather")


def is_move(node: ir.Node | None) -> bool:
    """Whether the first output of ``node`` holds exactly the values of its first input."""
    return is_op(node, *_MOVES)


def highest_slot(slot: Slot, quantized: Collection[Slot]) -> Slot:
    """Return the input to quantize so that ``slot`` reads quantized numbers.

    It lies before the operators that move the data, as long as nothing but slots of ``quantized``
    reads what they move.
    """
    value = _value(slot)
    while value is not None:
        producer = value.producer()
        if producer is None or not is_move(producer) or not _only_read_by(value, quantized):
            break
        if producer.graph is not slot[0].graph or constant(producer.inputs[0]) is not None:
            break
        slot = (producer, 0)
        value = _value(slot)
    return slot


def sources(value: ir.Value | None) -> Iterator[ir.Value]:
    """Yield ``value`` and what it was moved from, nearest first."""
    while value is not None:
        yield value
        producer = value.producer()
        value = producer.inputs[0] if producer is not None and is_move(producer) else None


def is_cut_for_attention(node: ir.Node, quantized: Collection[Slot]) -> bool:
    """Whether pieces of the product ``node`` go into a product of two activations in float.

    A piece that is quantized right after the cut does not count.
    """
    value = node.outputs[0]
    while len(value.uses()) == 1 and not value.is_graph_output():
        reader, index = next(iter(value.uses()))
        if is_op(reader, *_CUTS):
            break
        bias = is_op(reader, "Add") and constant(reader.inputs[1 - index]) is not None
        if not (bias or is_move(reader)):
            return False
        value = reader.outputs[0]
    cuts = [reader for reader, index in value.uses() if index == 0 and is_op(reader, *_CUTS)]
    pieces = [piece for cut in cuts for piece in cut.outputs]
    return any(
        is_product_of_activations(reader) and (reader, index) not in quantized
        for piece in pieces
        for reader, index in _readers(piece)
    )


def is_product_of_activations(node: ir.Node | None) -> bool:
    """Whether both operands of the matrix product ``node`` are computed at run time."""
    if node is None or not is_op(node, "MatMul"):
        return is_op(node, "Attention")
    return all(value is not None and constant(value) is None for value in node.inputs)


def _readers(value: ir.Value) -> Iterator[Slot]:
    """Yield the inputs that read ``value``, also through moves and a product with a constant."""
    for reader, index in value.uses():
        scaled = is_op(reader, "Mul", "Div") and constant(reader.inputs[1 - index]) is not None
        if index == 0 and (is_move(reader) or scaled):
            yield from _readers(reader.outputs[0])
        else:
            yield reader, index


def _only_read_by(value: ir.Value, quantized: Collection[Slot]) -> bool:
    if value.is_graph_output():
        return False
    return all(
        (reader, index) in quantized
        or (index == 0 and is_move(reader) and _only_read_by(reader.outputs[0], quantized))
        for reader, index in value.uses()
    )


def _value(slot: Slot) -> ir.Value | None:
    node, index = slot
    return node.inputs[index]
