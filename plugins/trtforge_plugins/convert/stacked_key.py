"""Attention whose query, key and value are one product, cut apart behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from trtforge.graph import is_op
from trtforge_plugins.convert.builder import Builder, rank, static_shape
from trtforge_plugins.convert.facts import attribute
from trtforge_plugins.convert.rule import Refusal, Rule


class StackedKey(Rule):
    """Turn a key that was cut out of a stack of query, key and value by Reshape and Transpose.

    That is how torch.export writes it, and TensorRT then keeps the one product. Behind a plain
    Transpose, as TorchScript writes it, TensorRT makes three products of it with three additions of
    a bias: 102 layers instead of 84 for a text encoder of 6 blocks, 74 instead of 62 in float16.
    """

    name: ClassVar[str] = "stacked-key"
    ops: ClassVar[tuple[str, ...]] = ("MatMul",)
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7 takes it, but splits the product that gives query, key and value"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__MatMul.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Return the product with the key turned in another way."""
        query, turned = node.inputs
        factor = None
        scaling = None if turned is None else turned.producer()
        if scaling is not None and is_op(scaling, "Mul"):
            turned, factor = scaling.inputs
            if static_shape(factor) not in ((), (1,)):
                return None
        key = _turned(turned)
        if query is None or key is None or build.opset < 14 or not _is_cut_from_stack(key):
            return None
        value = exchange_last_axes(key, build)
        if factor is not None:
            value = build.op("Mul", value, factor)
        return [build.op("MatMul", query, value)]


def exchange_last_axes(key: ir.Value, build: Builder) -> ir.Value:
    """Exchange the last two axes of a tensor of rank 4, as torch.export writes it for a key."""
    static = static_shape(key)
    if static is not None:
        batch, heads, length, width = static
        flat = build.op("Reshape", key, [batch * heads, length, width], allowzero=1)
        turned = build.op("Transpose", flat, perm=[0, 2, 1])
        return build.op("Reshape", turned, [batch, heads, width, length], allowzero=1)
    dims = build.dims(key)
    outer = build.op("Mul", build.slice(dims, 0, 0, 1), build.slice(dims, 0, 1, 2))
    shape = build.op("Concat", outer, build.slice(dims, 0, 2, 4), axis=0)
    flat = build.op("Reshape", key, shape, allowzero=1)
    turned = build.op("Transpose", flat, perm=[0, 2, 1])
    shape = build.op("Gather", dims, [0, 1, 3, 2])
    return build.op("Reshape", turned, shape, allowzero=1)


def _turned(value: ir.Value | None) -> ir.Value | None:
    """Return the value of rank 4 whose last two axes a Transpose exchanges, if it is that."""
    node = None if value is None else value.producer()
    if node is None or not is_op(node, "Transpose"):
        return None
    return node.inputs[0] if list(attribute(node, "perm", [])) == [0, 1, 3, 2] else None


def _is_cut_from_stack(key: ir.Value) -> bool:
    """Whether ``key`` is one entry of a transposed product: (3, batch, heads, length, width).

    Of a stack of two of open length the rule would spare kernels, too, for more memory (DETR).
    """
    node = key.producer()
    if node is not None and is_op(node, "Squeeze"):
        whole = node.inputs[0]
        node = None if whole is None else whole.producer()
    if node is None or not is_op(node, "Gather", "Split", "Slice") or node.inputs[0] is None:
        return False
    stack = node.inputs[0]
    transposed = stack.producer()
    if rank(stack) != 5 or transposed is None or not is_op(transposed, "Transpose"):
        return False
    if stack.shape is not None and stack.shape[0] == 2 and not isinstance(stack.shape[3], int):
        return False
    grouped = transposed.inputs[0]
    cut = None if grouped is None else grouped.producer()
    return rank(key) == 4 and cut is not None and is_op(cut, "Reshape")
