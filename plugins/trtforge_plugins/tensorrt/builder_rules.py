"""What TensorRT's builder refuses although its parser takes it, seen in the graph alone.

The codes, causes and remedies are those of the failures that a build would end with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from trtforge.diagnosis import Finding, Level
from trtforge.graph import constant, is_op, label, nodes
from trtforge_plugins.convert.attention import read_heads, why_no_kernel
from trtforge_plugins.tensorrt.failure_rules import rule
from trtforge_plugins.tensorrt.loop_shapes import Shapes, changing_loops

LONGEST_TOP = 3840
"""Elements that TensorRT's TopK returns at most."""
_NARROW = frozenset(
    {ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT4E2M1, ir.DataType.INT4, ir.DataType.FLOAT8E5M2}
)
"""Types that only QuantizeLinear makes and only DequantizeLinear reads."""

Look = Callable[[ir.Node], Iterator[str]]
"""Yields what was found at a node where the rule applies."""


def refused_by_builder(model: ir.Model, usual: Shapes = MappingProxyType({})) -> Iterator[Finding]:
    """Yield the findings on ``model``, which stays as it is.

    Args:
        model: Its functions are inlined already.
        usual: The usual shape of inputs with a range.
    """
    for value in model.graph.inputs:
        if value.dtype in _NARROW:
            known = rule("quantized-type-loose")
            yield Finding(
                known.code, value.name or "", "", known.cause.format(op="an input"),
                f"the input is {value.dtype.name.lower()}", known.remedies, seen_in="model",
            )  # fmt: skip
    told = set()
    for node in nodes(model):
        for code, level, look in _RULES:
            for found in look(node):
                told.add((code, label(node)))
                yield _finding(code, node, found, level)
    for node, change in changing_loops(model, usual):
        if ("loop-changes-shape", label(node)) not in told:
            yield _finding("loop-changes-shape", node, change, "refused")


def _finding(code: str, node: ir.Node, found: str, level: Level) -> Finding:
    known = rule(code)
    cause = known.cause.format(op=node.op_type)
    return Finding(
        code, label(node), node.op_type, cause, found, known.remedies, level, seen_in="model"
    )


def _loose_type(node: ir.Node) -> Iterator[str]:
    if not is_op(node, "Cast") or node.inputs[0] is None:
        return
    source, goal = node.inputs[0].dtype, ir.DataType(node.attributes.get_int("to", 1))
    if goal in _NARROW or source in _NARROW:
        yield f"it casts {source.name if source is not None else 'a value'} to {goal.name}"


def _branches(node: ir.Node) -> Iterator[str]:
    if not is_op(node, "If") or constant(node.inputs[0]) is not None:
        return
    names = ("then_branch", "else_branch")
    then, other = (node.attributes[name].as_graph().outputs for name in names)
    for one, two in zip(then, other, strict=False):
        shapes = one.shape, two.shape
        if None not in shapes and len({len(shape) for shape in shapes if shape is not None}) > 1:
            yield f"{one.name} is {one.shape}, {two.name} is {two.shape}"
        elif None not in (one.dtype, two.dtype) and one.dtype != two.dtype:
            yield f"{one.name} is {one.dtype}, {two.name} is {two.dtype}"


def _long_top(node: ir.Node) -> Iterator[str]:
    count = _top(node)
    if count is not None and count > LONGEST_TOP:
        yield f"k is {count}; TensorRT returns {LONGEST_TOP} at most"


def _top_beyond(node: ir.Node) -> Iterator[str]:
    count, shape = _top(node), node.inputs[0].shape if node.inputs and node.inputs[0] else None
    axis = node.attributes.get_int("axis", -1)
    if count is None or shape is None or not -len(shape) <= axis < len(shape):
        return
    length = shape[axis]
    if isinstance(length, int) and count > length:
        yield f"k is {count}, and axis {axis} has {length} elements"


def _top(node: ir.Node) -> int | None:
    if not is_op(node, "TopK") or len(node.inputs) < 2:
        return None
    count = constant(node.inputs[1])
    return None if count is None or count.size != 1 else int(count.reshape(-1)[0])


def _expand(node: ir.Node) -> Iterator[str]:
    if not is_op(node, "Expand") or node.inputs[0] is None or node.inputs[0].shape is None:
        return
    wanted = constant(node.inputs[1])
    if wanted is None or wanted.ndim != 1:
        return
    pairs = zip(reversed(node.inputs[0].shape), reversed(wanted.astype(np.int64)), strict=False)
    for have, want in pairs:
        if isinstance(have, int) and have not in (1, want) and want != 1:
            yield f"{have} elements cannot become {want}"


def _loop_types(node: ir.Node) -> Iterator[str]:
    for before, after in _carried(node):
        if None not in (before.dtype, after.dtype) and before.dtype != after.dtype:
            yield f"{before.name} is {before.dtype}, {after.name} is {after.dtype}"


def _loop_shapes(node: ir.Node) -> Iterator[str]:
    for before, after in _carried(node):
        one, two = before.shape, after.shape
        if one is None or two is None or one == two:
            continue
        if len(one) != len(two) or (one.is_static() and two.is_static()):
            yield f"{before.name} is {one}, {after.name} is {two}"


def _carried(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yield what a Loop carries as a turn gets it and as the turn leaves it."""
    if is_op(node, "Loop"):
        body = node.attributes["body"].as_graph()
        yield from zip(body.inputs[2:], body.outputs[1:], strict=False)


def _attention(node: ir.Node) -> Iterator[str]:
    heads = read_heads(node) if is_op(node, "Attention") else None
    reason = why_no_kernel(node, heads) if heads is not None else ""
    if reason:
        yield reason


def _open_attention(node: ir.Node) -> Iterator[str]:
    if is_op(node, "Attention") and read_heads(node) is None:
        yield "its heads are not known, and TensorRT-RTX 1.7.1 has kernels for some sizes only"


_RULES: tuple[tuple[str, Level, Look], ...] = (
    ("quantized-type-loose", "refused", _loose_type),
    ("branches-differ", "refused", _branches),
    ("too-many-elements", "refused", _long_top),
    ("topk-beyond-axis", "refused", _top_beyond),
    ("slice-out-of-bounds", "refused", _expand),
    ("loop-changes-type", "refused", _loop_types),
    ("loop-changes-shape", "refused", _loop_shapes),
    ("attention-without-kernel", "refused", _attention),
    ("attention-without-kernel", "advice", _open_attention),
)
