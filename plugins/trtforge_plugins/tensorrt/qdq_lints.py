"""Q/DQ pairs that TensorRT takes but does not fuse; what it fuses is on docs/quantization.md."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from trtforge import Request
from trtforge.graph import constant_tensor, is_op, label, nodes

_ACTIVATIONS = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "HardSwish", "Elu", "Gelu", "Mish")
_WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "MaxPool", "Concat", "Identity", "Slice")


def misplaced(model: ir.Model, _request: Request) -> Iterator[tuple[str, str, str]]:
    """Yield QuantizeLinear and DequantizeLinear nodes, and products, that are misplaced."""
    for node in nodes(model):
        if is_op(node, "QuantizeLinear"):
            reasons = _of_quantize(node)
        elif is_op(node, *_WEIGHTED):
            reasons = _of_product(node)
        else:
            continue
        for reason in reasons:
            yield label(node), node.op_type, reason


def _of_quantize(node: ir.Node) -> Iterator[str]:
    readers = [use.node for use in node.outputs[0].uses()]
    odd = [each for each in readers if not is_op(each, "DequantizeLinear", *_MOVES)]
    if odd:
        yield f"{label(odd[0])} ({odd[0].op_type}) reads its result without a DequantizeLinear"
    scale = constant_tensor(node.inputs[1]) if node.inputs[1] is not None else None
    of_weight = node.inputs[0] is not None and constant_tensor(node.inputs[0]) is not None
    if scale is None:
        yield "its scale is not a constant"
    elif not of_weight and len(scale.shape) and scale.size > 1:
        yield f"it has {scale.size} scales for an activation, which takes one"
    producer = node.inputs[0].producer() if node.inputs[0] is not None else None
    behind = [use.node for each in readers for out in each.outputs for use in out.uses()]
    if is_op(producer, *_WEIGHTED) and behind and all(is_op(b, *_ACTIVATIONS) for b in behind):
        yield f"it stands between {producer.op_type if producer else ''} and {behind[0].op_type}"


def _of_product(node: ir.Node) -> Iterator[str]:
    quantized = [_is_quantized(value) for value in node.inputs[:2]]
    if len(quantized) == 2 and quantized == [True, False]:
        yield "its first input is quantized and its second is not"
    elif quantized == [False, True] and not _is_weight_only(node.inputs[1]):
        yield "its second input is quantized to 8 bits and its first is not"


def _is_quantized(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    while is_op(producer, *_MOVES) and producer is not None and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    return is_op(producer, "DequantizeLinear")


def _is_weight_only(value: ir.Value | None) -> bool:
    """Whether only the weight is meant to be small: 4 bits, or blocks of scales."""
    producer = value.producer() if value is not None else None
    if producer is None or not is_op(producer, "DequantizeLinear"):
        return False
    codes = producer.inputs[0]
    small = codes is not None and codes.dtype is not None and codes.dtype.itemsize < 1
    return small or producer.attributes.get_int("block_size", 0) > 0
