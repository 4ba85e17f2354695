"""Models with 4-bit floating-point numbers, made ready for ONNX Runtime, which has no kernel.

NVFP4 (see ``insert-qdq``) stands in a model as TensorRT's ``TRT_FP4DynamicQuantize`` and chains of
DequantizeLinear. Here weights become the numbers that they stand for, and the quantizer a function
that rounds to the same grid in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from trtforge.graph import add_initializer, constant, is_op

if TYPE_CHECKING:
    from trtforge.artifacts import Array

QUANTIZER = ("trt", "TRT_FP4DynamicQuantize")
_BLOCK = 16
_DOMAIN = "trtforge.float4"
# The numbers of E2M1 are 0, 0.5, 1, 1.5, 2, 3, 4 and 6: steps of 0.5 up to 2, of 1 up to 4, of 2.
_ROUNDED = """
<domain: "trtforge.float4", opset_import: ["" : 23]>
Rounded (x, tensor_scale) => (y)
{
    shape = Shape (x)
    wide = Cast <to=1> (x)
    above = Cast <to=1> (tensor_scale)
    in_blocks = Constant <value_ints=[-1, 16]> ()
    blocks = Reshape (wide, in_blocks)
    magnitude = Abs (blocks)
    last = Constant <value_ints=[1]> ()
    largest = ReduceMax (magnitude, last)
    six = Constant <value_float=6.0> ()
    wanted = Div (largest, six)
    relative = Div (wanted, above)
    stored = Cast <to=17> (relative)
    back = Cast <to=1> (stored)
    scale = Mul (back, above)
    zero = Constant <value_float=0.0> ()
    one = Constant <value_float=1.0> ()
    empty = Equal (scale, zero)
    divisor = Where (empty, one, scale)
    number = Div (blocks, divisor)
    size = Abs (number)
    half = Constant <value_float=0.5> ()
    two = Constant <value_float=2.0> ()
    four = Constant <value_float=4.0> ()
    from_two = GreaterOrEqual (size, two)
    from_four = GreaterOrEqual (size, four)
    small_step = Where (from_two, one, half)
    step = Where (from_four, two, small_step)
    steps = Div (number, step)
    whole = Round (steps)
    nearest = Mul (whole, step)
    minus_six = Neg (six)
    held = Clip (nearest, minus_six, six)
    result = Mul (held, scale)
    y = Reshape (result, shape)
}
"""


def uses_float4(model: ir.Model) -> bool:
    """Whether a node of the main graph reads or makes 4-bit floating-point numbers."""
    return any(
        node.op_identifier()[:2] == QUANTIZER or _dtype(node.inputs) is ir.DataType.FLOAT4E2M1
        for node in model.graph
    )


def without_float4(model: ir.Model) -> ir.Model:
    """Return a copy that computes the same in float32 where ``model`` has 4-bit numbers.

    Only what ``insert-qdq`` writes is known: blocks of 16 along the last axis of an activation.
    """
    model = model.clone()
    for node in list(model.graph):
        if not is_op(node, "DequantizeLinear") or not node.attributes.get_int("block_size", 0):
            continue
        numbers, scales = node.inputs[:2]
        quantizer = None if numbers is None else numbers.producer()
        if quantizer is not None and quantizer.op_identifier()[:2] == QUANTIZER:
            call = ir.node("Rounded", quantizer.inputs[:2], domain=_DOMAIN)
            dtype = node.outputs[0].dtype or ir.DataType.FLOAT
            cast = ir.node("Cast", call.outputs, {"to": dtype.value})
            model.graph.insert_before(node, (call, cast))
            _take_over(node, cast.outputs[0])
        elif numbers is not None and numbers.dtype is ir.DataType.FLOAT4E2M1:
            values = _stored(numbers, scales, node.attributes.get_int("axis", 1))
            if values is not None:
                _take_over(node, add_initializer(model.graph, f"{numbers.name}_values", values))
    _drop_unread(model.graph)
    model.functions[_DOMAIN, "Rounded", ""] = _function()
    model.graph.opset_imports[_DOMAIN] = 1
    return model


def _function() -> ir.Function:
    import onnx.parser

    return ir.serde.deserialize_function(onnx.parser.parse_function(_ROUNDED))


def _dtype(inputs: Sequence[ir.Value | None]) -> ir.DataType | None:
    return None if not inputs or inputs[0] is None else inputs[0].dtype


def _stored(numbers: ir.Value, scales: ir.Value | None, axis: int) -> Array | None:
    """Return what the 4-bit weights stand for, or None where a scale is no constant."""
    codes, dtype = constant(numbers), None if scales is None else scales.dtype
    producer = None if scales is None else scales.producer()
    if producer is not None and is_op(producer, "Cast") and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    if (
        codes is None
        or producer is None
        or dtype is None
        or not is_op(producer, "DequantizeLinear")
    ):
        return None
    low, above = (constant(value) for value in producer.inputs[:2])
    if low is None or above is None:
        return None
    per_block = (low.astype(np.float32) * above.astype(np.float32)).astype(dtype.numpy())
    wide = np.repeat(per_block.astype(np.float32), _BLOCK, axis=axis)
    return (codes.astype(np.float32) * wide).astype(dtype.numpy())


def _take_over(node: ir.Node, value: ir.Value) -> None:
    old = node.outputs[0]
    value.type, value.shape = old.type, old.shape
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)


def _drop_unread(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        if not any(out.uses() or out.is_graph_output() for out in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]
