"""Unique: the distinct values of a tensor; how many there are depends on the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from trtforge import CustomOp, Example, Launch, Shape, Substitute, Tactic, ceil_div

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 256
TILE = 16 * BLOCK
"""Entries that a block sorts: kSortTile in the kernel."""
DIGITS, PASSES = 256, 8
"""A sort by digits of 8 bits takes as many passes for keys of 64."""
PROGRESS = 32
"""Integers by which blocks tell each other how far they are."""


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
        """Clear what blocks tell each other by; then all phases in one launch."""
        (size,) = outputs[0]
        tiles = max(1, ceil_div(size, TILE))
        cleared = PROGRESS + (PASSES + tiles) * DIGITS
        scalars = (size, tiles, cleared)
        return (
            Launch(ceil_div(cleared, BLOCK), BLOCK, scalars, kernel="start"),
            Launch(tiles * (PASSES + 5), BLOCK, scalars, kernel="run"),
        )

    def names(self) -> Mapping[str, object]:
        """Tell the kernel where the histograms are."""
        return {"progress": PROGRESS}

    def workspace(self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...]) -> int:
        """Progress, histograms, states of two passes, two sets of keys and places, a selection."""
        (size,) = outputs[0]
        tiles = max(1, ceil_div(size, TILE))
        words = PROGRESS + (PASSES + 2 * tiles) * DIGITS + tiles * (1 + TILE // 32)
        return 4 * words + 2 * (8 + 4) * size

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
