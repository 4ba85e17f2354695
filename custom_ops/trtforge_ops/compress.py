"""Compress: the rows that a condition chooses; how many there are depends on the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from trtforge import CustomOp, Example, Launch, Shape, Substitute, Tactic, ceil_div
from trtforge_ops.select import BLOCK, selection_bytes, spans

Array = np.ndarray[Any, np.dtype[Any]]

PART = 2048
"""Elements of a row that one warp copies."""


@dataclass(frozen=True)
class Compress(CustomOp):
    """The entries of ``x`` along its first axis for which ``condition`` holds, in order.

    ``condition`` [n] may be shorter than that axis; what it does not reach is left out.
    """

    name = "trtforge::Compress"
    inputs = ("x", "condition: bool")
    outputs = ("y",)
    counted = ("y",)
    dtypes = ("float32", "float16", "bfloat16", "int32", "int64")
    kernel = "compress.cu.jinja"
    function = """
        columns = NonZero (condition)
        first = Constant <value_ints = [0]> ()
        places = Squeeze (columns, first)
        y = Gather <axis = 0> (x, places)
    """

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return room for all entries that the condition reaches."""
        return ((min(inputs[0][0], inputs[1][0]), *inputs[0][1:]),)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> tuple[Launch, ...]:
        """Mark the rows; then each warp copies those of 32, or a part of each."""
        words, blocks = spans(outputs[0][0])
        row = prod(inputs[0][1:])
        parts = max(1, ceil_div(row, PART))
        scalars = (outputs[0][0], words, blocks, row, parts)
        return (
            Launch(blocks, BLOCK, scalars, kernel="mark"),
            Launch(blocks * parts, BLOCK, scalars, kernel="write"),
        )

    def names(self) -> Mapping[str, object]:
        """Tell the kernel how long a part is."""
        return {"part": PART}

    def workspace(self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...]) -> int:
        """Bits and counts."""
        return selection_bytes(outputs[0][0])

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Ask NumPy."""
        return (np.compress(inputs[1], inputs[0], axis=0),)

    @classmethod
    def substitute(cls, node: ir.Node) -> Substitute | str | None:
        """Stand for ONNX's Compress along the first axis, or of a vector."""
        if node.domain or node.op_type != "Compress":
            return None
        shape = node.inputs[0].shape if node.inputs and node.inputs[0] is not None else None
        rank = None if shape is None else len(shape)
        axis = node.attributes.get_int("axis", None)
        if (axis is None and rank == 1) or axis == 0 or (rank is not None and axis == -rank):
            return Substitute(cls(), (0, 1))
        return "it does not select along the first axis"

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(), [(5, 4), np.array([1, 0, 1, 1, 0])]),
            Example(cls(), [(7,), np.array([0, 1, 1])]),
            Example(cls(), [(100_000, 256), (100_000,)], timed=True),
        ]
