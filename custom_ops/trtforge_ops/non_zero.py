"""NonZero: where a tensor is not zero; how many places there are depends on the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from trtforge import CustomOp, Example, Launch, Shape, Substitute, Tactic
from trtforge_ops.scatter import lengths
from trtforge_ops.select import BLOCK, selection_bytes, spans

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class NonZero(CustomOp):
    """``places`` [count, rank]: the indices of what is not zero, in order.

    It is the transpose of ONNX's NonZero, because a counted axis comes first.
    """

    name = "trtforge::NonZero"
    inputs = ("x",)
    outputs = ("places: int64",)
    counted = ("places",)
    dtypes = ("float32", "float16", "bfloat16", "int32", "bool")
    kernel = "non_zero.cu.jinja"
    function = """
        columns = NonZero (x)
        places = Transpose <perm = [1, 0]> (columns)
    """

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return room for all entries of ``x``."""
        return ((prod(inputs[0]), len(inputs[0])),)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> tuple[Launch, ...]:
        """Mark what is not zero, then write where it is."""
        size, rank = outputs[0]
        words, blocks = spans(size)
        scalars = (size, words, blocks, rank, *lengths(inputs[0]))
        return (
            Launch(blocks, BLOCK, scalars, kernel="mark"),
            Launch(blocks, BLOCK, scalars, kernel="write"),
        )

    def workspace(self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...]) -> int:
        """Bits and counts."""
        return selection_bytes(outputs[0][0])

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Ask NumPy."""
        return (np.argwhere(inputs[0]),)

    @classmethod
    def substitute(cls, node: ir.Node) -> Substitute | str | None:
        """Stand for ONNX's NonZero, whose result is the transpose of this op's."""
        is_it = not node.domain and node.op_type == "NonZero"
        return Substitute(cls(), (0,), transposed=True) if is_it else None

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(), [np.arange(105).reshape(3, 5, 7) % 3]),
            Example(cls(), [np.zeros(4)]),
            Example(cls(), [(4096, 4096)], timed=True),
        ]
