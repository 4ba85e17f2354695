"""Unique: the distinct values of a tensor; how many there are depends on the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from trtforge import CustomOp, Example, Launch, Shape, Substitute, Tactic, ceil_div
from trtforge_ops.select import CHUNK
from trtforge_ops.sorting import BLOCK, padded, sort_launches

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Unique(CustomOp):
    """The distinct values of ``x``, sorted, as ONNX's Unique without an axis gives them.

    ``first`` [count] is where in the flattened ``x`` each value comes first, ``inverse`` [size] the
    number of each entry's value, ``counts`` [count] how often each comes. A NaN equals no other.
    """

    name = "trtforge::Unique"
    inputs = ("x",)
    outputs = ("values", "first: int64", "inverse: int64", "counts: int64")
    counted = ("values", "first", "counts")
    dtypes = ("float32", "int32", "int64")
    kernel = "unique.cu.jinja"
    function = """
        values, first, inverse, counts = Unique (x)
    """

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return room for as many values as there are entries."""
        return ((prod(inputs[0]),),) * 4

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> tuple[Launch, ...]:
        """Sort the indices; number the values; then how often each comes."""
        (size,) = outputs[0]
        chunks = max(1, ceil_div(size, CHUNK))
        sizes = (size, padded(size), chunks)
        once = (0, 0, *sizes)
        return (
            Launch(max(1, ceil_div(padded(size), BLOCK)), BLOCK, once, kernel="start"),
            *sort_launches(size, sizes),
            Launch(chunks, BLOCK, once, kernel="count"),
            Launch(1, BLOCK, once, kernel="number"),
            Launch(chunks, BLOCK, once, kernel="values"),
            Launch(max(1, ceil_div(size, BLOCK)), BLOCK, once, kernel="counts"),
        )

    def workspace(self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...]) -> int:
        """The order, the chunks' counts, and where each value starts in the order."""
        (size,) = outputs[0]
        return 4 * (padded(size) + max(1, ceil_div(size, CHUNK)) + size)

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Ask NumPy."""
        flat = inputs[0].reshape(-1)
        found = np.unique(
            flat, return_index=True, return_inverse=True, return_counts=True, equal_nan=False
        )
        return (found[0], *(part.astype(np.int64) for part in found[1:]))

    @classmethod
    def substitute(cls, node: ir.Node) -> Substitute | str | None:
        """Stand for ONNX's Unique without an axis, sorted."""
        if node.domain or node.op_type != "Unique":
            return None
        if "axis" in node.attributes:
            return "it has an axis"
        if not node.attributes.get_int("sorted", 1):
            return "its values are to stay in their order"
        return Substitute(cls(), (0,))

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(), [np.arange(64) % 7 - 3]),
            Example(cls(), [np.arange(105).reshape(3, 5, 7) // 4]),
            Example(cls(), [np.arange(1_000_000) * 7919 % 50_021], timed=True),
        ]
