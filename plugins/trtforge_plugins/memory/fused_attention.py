"""Finds attention that TensorRT runs as one kernel, so that its scores are never stored.

TensorRT-RTX 1.7.1 does so (``_gemm_mha_v2``) in float16 and bfloat16, not in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from trtforge.graph import constant, is_op

_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_BETWEEN = ("Mul", "Div", "Add", "Where", "Cast", "Sub")
"""What may stand between the product of queries and keys, and the softmax: scale and mask."""
Readers = Callable[[ir.Node], list[ir.Node | None]]


def fused_attention(
    nodes: list[ir.Node], readers: Readers, origin: Callable[[ir.Value], ir.Value]
) -> Iterator[list[ir.Node]]:
    """Yield the nodes of each attention that becomes one kernel, first product to last."""
    for softmax in nodes:
        if not is_op(softmax, "Softmax") or softmax.outputs[0].dtype not in _HALVES:
            continue
        after = _only_reader(softmax, readers)
        if not is_op(after, "MatMul") or after is None:
            continue
        before = _scores(softmax, readers, origin)
        if before:
            yield [*before, softmax, after]


def _scores(
    softmax: ir.Node, readers: Readers, origin: Callable[[ir.Value], ir.Value]
) -> list[ir.Node]:
    """Return the product of two activations that ``softmax`` comes from and what lies between."""
    chain: list[ir.Node] = []
    node = softmax
    while True:
        inputs = [origin(v).producer() for v in node.inputs if v is not None]
        found = [
            each
            for each in inputs
            if is_op(each, "MatMul", *_BETWEEN) and _only_reader(each, readers) is node
        ]
        products = [each for each in found if is_op(each, "MatMul")]
        following = (products or found)[:1]
        if not following or following[0] is None:
            return []
        node = following[0]
        chain.insert(0, node)
        if products:
            return chain if constant(node.inputs[1]) is None else []


def _only_reader(node: ir.Node | None, readers: Readers) -> ir.Node | None:
    found = readers(node) if node is not None else []
    return found[0] if len(found) == 1 else None
