"""Which keys a query of Attention sees: every limit that ONNX knows, as one additive mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.facts import attribute, declared_size, named_dims, operand


@dataclass(frozen=True)
class Mask:
    """The limits of one Attention node."""

    bias: ir.Value | None = None
    """What is added to the scores, 0 or -inf or what the model gives; broadcasts to [batch,
    heads, queries, keys]. None: every query sees every key."""
    empty: ir.Value | None = None
    """Which queries may see no key at all, [..., queries, 1]: their results are 0. None: none."""


def additive_mask(node: ir.Node, query: ir.Value, key: ir.Value, build: Builder) -> Mask:
    """Make the mask of ``node``.

    Args:
        node: The Attention node.
        query: [batch, heads, queries, size].
        key: [batch, heads, keys, size], with the past keys.
        build: Takes the new nodes.
    """
    given, lengths = operand(node, 3), operand(node, 6)
    limits = _limits(node, query, key, build)
    bias = None if given is None else _as_bias(given, query, key, build)
    if limits:
        allowed = limits[0]
        for limit in limits[1:]:
            allowed = build.op("And", allowed, limit)
        open_score = build.const(0.0, query.dtype) if bias is None else bias
        bias = build.op("Where", allowed, open_score, build.const(-np.inf, query.dtype))
    leaves_some = given is None and lengths is None and not _may_be_left_behind(node)
    if bias is None or leaves_some:
        return Mask(bias)
    best = build.reduce("ReduceMax", bias, [-1])
    return Mask(bias, build.op("Equal", best, build.const(-np.inf, query.dtype)))


def _limits(node: ir.Node, query: ir.Value, key: ir.Value, build: Builder) -> list[ir.Value]:
    """Return what each limit allows, as booleans that broadcast with each other."""
    left, right = attribute(node, "left_window_size", -1), attribute(node, "right_window_size", -1)
    causal, lengths = attribute(node, "is_causal", 0) == 1, operand(node, 6)
    if not causal and lengths is None and max(left, right) < 0:
        return []
    limits, places = [], build.positions(key, 2)
    if causal or max(left, right) >= 0:
        position = build.unsqueeze(build.positions(query, 2), [1])
        offset = _offset(node, query, build)
        position = position if offset is None else build.op("Add", position, offset)
        if causal:
            limits.append(build.op("LessOrEqual", places, position))
        elif right >= 0:
            limits.append(build.op("LessOrEqual", places, build.op("Add", position, right)))
        if left >= 0:
            limits.append(build.op("GreaterOrEqual", places, build.op("Sub", position, left)))
    if lengths is not None:
        limits.append(build.op("Less", places, build.unsqueeze(lengths, [1, 2, 3])))
    return limits


def _offset(node: ir.Node, query: ir.Value, build: Builder) -> ir.Value | None:
    """Return the number of keys before the first query: a number, or [batch, 1, 1, 1]."""
    past, lengths = operand(node, 4), operand(node, 6)
    if past is not None:
        return build.op("Shape", past, start=2, end=3)
    if lengths is not None:
        return build.op(
            "Sub", build.unsqueeze(lengths, [1, 2, 3]), build.op("Shape", query, start=2, end=3)
        )
    return None


def _may_be_left_behind(node: ir.Node) -> bool:
    """Whether a left window may hold no key: with more queries than new keys."""
    if attribute(node, "left_window_size", -1) < 0:
        return False
    queries, keys = (named_dims(value) for value in node.inputs[:2])
    if queries is None or keys is None:
        return True
    new, now = keys[-2], queries[-2]
    fewer = isinstance(now, int) and isinstance(new, int) and now <= new
    return not (fewer or now == new)


def _as_bias(given: ir.Value, query: ir.Value, key: ir.Value, build: Builder) -> ir.Value:
    """Return the model's mask as numbers to add, as long as the keys are."""
    masked = build.const(-np.inf, query.dtype)
    if given.dtype == ir.DataType.BOOL:
        bias = build.op("Where", given, build.const(0.0, query.dtype), masked)
    else:
        bias = build.cast(given, query.dtype or ir.DataType.FLOAT)
    columns, keys = named_dims(given), named_dims(key)
    if build.opset < 24 or (columns and keys and columns[-1] in (keys[2], 1)):
        return bias
    width = declared_size(given, -1), declared_size(key, 2)
    if width[0] is not None and width[1] is not None:
        missing: ir.Value | list[int] = [0, width[1] - width[0]]
    else:
        both = build.op("Shape", key, start=2, end=3), build.op("Shape", given, start=-1)
        missing = build.op("Concat", [0], build.op("Sub", *both), axis=0)
    return build.op("Pad", bias, missing, masked, [-1])
