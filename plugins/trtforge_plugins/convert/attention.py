"""Attention in the form that TensorRT has a kernel for, or written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge.graph import is_op
from trtforge_plugins.convert.attention_mask import Mask, additive_mask
from trtforge_plugins.convert.builder import Builder, rank
from trtforge_plugins.convert.facts import attribute, declared_size, operand, used
from trtforge_plugins.convert.rule import Refusal, Rule

KERNEL_TYPES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
KERNEL_HEAD_SIZES = range(9, 257)
_KERNEL_WIDTHS = f"{KERNEL_HEAD_SIZES[0]} to {KERNEL_HEAD_SIZES[-1]}"
WINDOWS = ("left_window_size", "right_window_size")


@dataclass(frozen=True)
class Heads:
    """What the inputs say of an Attention node; all of it is known before it runs."""

    queries: int
    """Number of heads of the query."""
    keys: int
    """Number of heads of key and value, which divides that of the query."""
    size: int
    """Head size of query and key."""
    value_size: int | None
    """Head size of the value, where it is known."""
    flat: bool
    """Whether the inputs are [batch, sequence, heads x size] instead of 4-D."""


class WrittenAttention(Rule):
    """Keep Attention to what TensorRT has a kernel for, and write the rest out around it.

    Past keys are concatenated before; causal limits, windows, lengths and masks become one mask.
    What no kernel serves (float32, soft caps, the scores as an output, unequal head sizes) is
    written out by MatMul and Softmax.
    """

    name: ClassVar[str] = "written-attention"
    ops: ClassVar[tuple[str, ...]] = ("Attention",)
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7: 'Attention operation was not supported by a dedicated kernel', 'only "
        "supports Attention nodes with one output', no softcap, softmax_precision or past_key, no "
        "mask beside is_causal; nonpad_kv_seqlen and the window sizes are dropped without a word"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__Attention.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Concatenate, mask, attend, merge the heads again."""
        heads = read_heads(node)
        if heads is None:
            return Refusal("its one type, numbers of heads and head size are not known")
        has_kernel = not why_no_kernel(node, heads)
        if has_kernel and not _has_extras(node):
            return None
        if attribute(node, "scale", 1.0) < 0:
            return Refusal("ONNX defines no negative scale: it takes the square root")
        query, key, value = (_split(node, index, heads, build) for index in range(3))
        past_key, past_value = operand(node, 4), operand(node, 5)
        if past_key is not None and past_value is not None:
            key = build.op("Concat", past_key, key, axis=2)
            value = build.op("Concat", past_value, value, axis=2)
        causal = has_kernel and _only_causal(node)
        mask = Mask() if causal else additive_mask(node, query, key, build)
        scores = None
        if has_kernel:
            result = build.op(
                "Attention", query, key, value, mask.bias,
                scale=attribute(node, "scale"), is_causal=1 if causal else None,
            )  # fmt: skip
            result = _emptied(result, mask, build)
        else:
            result, scores = _write_out(node, heads, (query, key, value), mask, build)
        if heads.flat:
            result = build.reshape(build.op("Transpose", result, perm=(0, 2, 1, 3)), [0, 0, -1])
        return [result, key, value, scores][: len(node.outputs)]


def read_heads(node: ir.Node) -> Heads | None:
    """Return the heads of an Attention node; None where something of them is not known."""
    query, key, value = node.inputs[:3]
    if query is None or key is None or value is None:
        return None
    if query.dtype is None or {key.dtype, value.dtype} != {query.dtype}:
        return None
    flat = rank(query) == 3
    if flat:
        queries, keys = attribute(node, "q_num_heads"), attribute(node, "kv_num_heads")
    else:
        queries, keys = declared_size(query, 1), declared_size(key, 1)
    size, value_size = declared_size(query, -1), declared_size(value, -1)
    if not queries or not keys or not size or queries % keys or rank(query) not in (3, 4):
        return None
    if flat:
        size, value_size = size // queries, value_size and value_size // keys
    return Heads(queries, keys, size, value_size, flat)


def why_no_kernel(node: ir.Node, heads: Heads) -> str:
    """Return why TensorRT-RTX 1.7.1 has no kernel for an Attention node, or nothing.

    Each was seen in builds for sm_75 to sm_120; with query and key from one tensor it crashes.
    """
    query, key = operand(node, 0), operand(node, 1)
    batch = query.shape[0] if query is not None and query.shape is not None else None
    if query is None or key is None or query.dtype not in KERNEL_TYPES:
        return f"it computes in {query.dtype if query is not None else 'an unknown type'}"
    if heads.size not in KERNEL_HEAD_SIZES:
        return f"its heads are {heads.size} wide; kernels take {_KERNEL_WIDTHS}"
    if heads.value_size not in (heads.size, None):
        return f"heads of the value are {heads.value_size} wide, those of the query {heads.size}"
    if batch == 1 and heads.queries == 1:
        return "it has one head and a batch of one"
    if _origin(query) is _origin(key):
        return f"query and key are one tensor, {query.name}"
    if attribute(node, "softcap", 0.0):
        return "it caps the scores"
    if attribute(node, "softmax_precision") is not None:
        return "it states the type of the softmax"
    return "it returns the scores" if used(node, 3) else ""


def _origin(value: ir.Value) -> ir.Value:
    """Return what ``value`` is the same tensor as."""
    while is_op(node := value.producer(), "Identity") and node is not None and node.inputs[0]:
        value = node.inputs[0]
    return value


def _has_extras(node: ir.Node) -> bool:
    """Whether there is something beside query, key, value and either a mask or is_causal."""
    mask, query = operand(node, 3), operand(node, 0)
    own_type = mask and query and mask.dtype in (ir.DataType.BOOL, query.dtype)
    return (
        any(output.name for output in node.outputs[1:])
        or any(operand(node, index) is not None for index in (4, 5, 6))
        or any(attribute(node, name, -1) >= 0 for name in WINDOWS)
        or (mask is not None and (not own_type or attribute(node, "is_causal", 0) == 1))
    )


def _split(node: ir.Node, index: int, heads: Heads, build: Builder) -> ir.Value:
    """Return query, key or value as [batch, heads, sequence, size]."""
    value = node.inputs[index]
    assert value is not None  # noqa: S101  # read_heads() has seen it
    if not heads.flat:
        return value
    count = heads.keys if index else heads.queries
    return build.op("Transpose", build.reshape(value, [0, 0, count, -1]), perm=(0, 2, 1, 3))


def _only_causal(node: ir.Node) -> bool:
    """Whether the one limit is is_causal without keys before the first query."""
    windows = any(attribute(node, name, -1) >= 0 for name in WINDOWS)
    others = any(operand(node, index) is not None for index in (3, 4, 6))
    return attribute(node, "is_causal", 0) == 1 and not windows and not others


def _emptied(value: ir.Value, mask: Mask, build: Builder) -> ir.Value:
    """Return ``value`` with 0 for the queries that see no key."""
    if mask.empty is None:
        return value
    return build.op("Where", mask.empty, build.const(0.0, value.dtype), value)


def _write_out(
    node: ir.Node, heads: Heads, given: tuple[ir.Value, ...], mask: Mask, build: Builder
) -> tuple[ir.Value, ir.Value]:
    """Return the result and the scores that the fourth output shows, both in the query's type."""
    query, key, value = given
    dtype = query.dtype
    assert dtype is not None  # noqa: S101  # read_heads() has seen it
    if heads.queries != heads.keys:
        shared = np.repeat(np.arange(heads.keys), heads.queries // heads.keys)
        key, value = (build.op("Gather", each, shared, axis=1) for each in (key, value))
    # the square root on both sides keeps the products of half-precision in range
    factor = float(np.sqrt(attribute(node, "scale", 1.0 / np.sqrt(heads.size))))
    keys = build.op("Mul", build.op("Transpose", key, perm=(0, 1, 3, 2)), factor)
    stages = [build.op("MatMul", build.op("Mul", query, factor), keys)]
    softcap = attribute(node, "softcap", 0.0)
    if softcap:
        capped = build.op("Tanh", build.op("Div", stages[-1], softcap))
        stages.append(build.op("Mul", capped, softcap))
    else:
        stages.append(stages[-1])
    stages.append(stages[-1] if mask.bias is None else build.op("Add", stages[-1], mask.bias))
    precision = ir.DataType(attribute(node, "softmax_precision", dtype))
    probabilities = build.op("Softmax", build.cast(stages[-1], precision), axis=-1)
    stages.append(_emptied(build.cast(probabilities, dtype), mask, build))
    shown = stages[attribute(node, "qk_matmul_output_mode", 0)]
    return build.op("MatMul", stages[-1], value), shown
