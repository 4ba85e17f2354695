"""NonMaxSuppression with a declared number of results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge.graph import scalar
from trtforge_plugins.convert.builder import Builder, static_shape
from trtforge_plugins.convert.counting import OLD, OPEN, first_true
from trtforge_plugins.convert.facts import attribute, declared_size, operand
from trtforge_plugins.convert.loops import counted_loop
from trtforge_plugins.convert.rule import Refusal, Rule

_OUT = float(np.finfo(np.float32).min)
"""The score of a box that is out of the race."""


class NonMaxSuppression(Rule):
    """Write a NonMaxSuppression with a declared number of results as a Loop over its choices.

    Each turn takes the best box of each class and drops those that overlap it.
    """

    name: ClassVar[str] = "non-max-suppression"
    ops: ClassVar[tuple[str, ...]] = ("NonMaxSuppression",)
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7 parses it and builds none: 'has no runners that implement it'"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__NonMaxSuppression.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Choose in turns; gather what was chosen in the order of batch, class and turn."""
        boxes, scores = node.inputs[:2]
        most, overlap, least = (operand(node, index) for index in (2, 3, 4))
        shape, results = static_shape(scores), declared_size(node.outputs[0])
        if results is None:
            return Refusal(f"{OPEN}; end the model before it, at boxes and scores")
        if static_shape(boxes) is None or boxes is None or scores is None or shape is None:
            return Refusal("the shape of its boxes or scores is open")
        if most is None:
            return Refusal("without max_output_boxes_per_class it chooses nothing")
        if build.opset < 11:
            return Refusal(OLD)
        known = scalar(most)
        turns = min(shape[2], results, shape[2] if known is None else int(known))
        if turns < 1 or results > shape[0] * shape[1] * turns:
            return Refusal(f"it cannot choose the {results} boxes that the model declares")
        if least is not None:
            good = build.op("Greater", scores, build.reshape(least, []))
            scores = build.op("Where", good, scores, _OUT)
        limit = (
            build.const(0.0, ir.DataType.FLOAT) if overlap is None else build.reshape(overlap, [])
        )
        corners = _corners(node, boxes, build)

        def turn(inner: Builder, left: ir.Value) -> tuple[ir.Value, list[ir.Value]]:
            best = inner.op("ArgMax", left, axis=2, keepdims=1)
            chosen = inner.op("Greater", inner.reduce("ReduceMax", left, [2]), _OUT)
            overlaps = inner.op("Greater", _overlap(corners, best, inner), limit)
            same = inner.op("Equal", best, np.arange(shape[2]))
            over = inner.op("Or", overlaps, same)
            return inner.op("Where", over, _OUT, left), [best, chosen]

        found, chosen = counted_loop(build, turns, scores, turn)
        numbers = np.arange(turns).reshape(-1, 1, 1, 1)
        in_time = build.op("Less", build.const(numbers), build.reshape(most, []))
        chosen = build.op("And", chosen, in_time)
        # From [turns, batch, classes, 1] to one row in the order of the results.
        found, chosen = (
            build.reshape(build.op("Transpose", each, perm=[1, 2, 0, 3]), [-1])
            for each in (found, chosen)
        )
        places = first_true(chosen, shape[0] * shape[1] * turns, results, build)
        batch = build.op("Div", places, shape[1] * turns)
        kind = build.op("Mod", build.op("Div", places, turns), shape[1])
        columns = (batch, kind, build.op("Gather", found, places))
        return [build.op("Concat", *(build.unsqueeze(each, [1]) for each in columns), axis=1)]


def _corners(node: ir.Node, boxes: ir.Value, build: Builder) -> tuple[ir.Value, ir.Value]:
    """Return the lower and the upper corner of each box: [batch, boxes, 2]."""
    first, second = (build.slice(boxes, 2, start, start + 2) for start in (0, 2))
    if attribute(node, "center_point_box", 0):
        half = build.op("Mul", second, 0.5)
        return build.op("Sub", first, half), build.op("Add", first, half)
    return build.op("Min", first, second), build.op("Max", first, second)


def _overlap(corners: tuple[ir.Value, ir.Value], best: ir.Value, build: Builder) -> ir.Value:
    """Return the intersection over union of each box with the best one: [batch, classes, boxes].

    Args:
        corners: Of all boxes.
        best: Which box is the best: [batch, classes, 1].
        build: Takes the new nodes.
    """
    low, high = (build.unsqueeze(each, [1]) for each in corners)
    batch, boxes, _ = static_shape(corners[0]) or (1, 1, 2)
    rows = build.op("Add", best, boxes * np.arange(batch).reshape(-1, 1, 1))
    best_low, best_high = (
        build.op("Gather", build.reshape(each, [-1, 2]), rows, axis=0) for each in corners
    )
    inner = build.op("Sub", build.op("Min", high, best_high), build.op("Max", low, best_low))
    shared = _area(build.op("Max", inner, 0.0), build)
    sizes = [_area(build.op("Sub", *pair), build) for pair in ((high, low), (best_high, best_low))]
    union = build.op("Sub", build.op("Add", *sizes), shared)
    # Boxes without area overlap nothing, also themselves.
    return build.op("Where", build.op("Greater", shared, 0.0), build.op("Div", shared, union), -1.0)


def _area(sides: ir.Value, build: Builder) -> ir.Value:
    return build.reduce("ReduceProd", sides, [3], keepdims=False)
