"""ScatterND with a reduction: updates of slices, combined with what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from trtforge import CustomOp, Example, Launch, Shape, Substitute, Tactic, ceil_div
from trtforge_ops.scatter import BLOCK, Reduction, as_reduction, combined, lengths

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class ScatterND(CustomOp):
    """``y = data``, then ``y[indices[i]] = reduction(y[indices[i]], updates[i])`` for each i.

    ``data`` is [d0, d1, …], ``indices`` […, k] names places along its first k axes, ``updates`` is
    […, dk, …]. Float updates of the same place are combined in any order. Sums of 16-bit types
    would lose small updates: cast to float32 before it.
    """

    name = "trtforge::ScatterND"
    inputs = ("data", "indices: int64", "updates")
    outputs = ("y",)
    dtypes = ("float32", "int32", "int64")
    kernel = "scatter_nd.cu.jinja"
    since = 18
    function = """
        y = ScatterND <reduction = "{{ reduction }}"> (data, indices, updates)
    """

    reduction: Reduction = "add"
    """How an update is combined with what is there."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shape of ``data``."""
        return (inputs[0],)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> tuple[Launch, ...]:
        """Copy the data; then one thread per update."""
        data, indices, updates = inputs
        depth = indices[-1]
        scalars = (
            prod(data), prod(updates), depth, prod(data[depth:]), *lengths(data[:depth]),
        )  # fmt: skip
        return (
            Launch(max(1, ceil_div(prod(data), BLOCK)), BLOCK, scalars, kernel="copy"),
            Launch(max(1, ceil_div(prod(updates), BLOCK)), BLOCK, scalars, kernel="apply"),
        )

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Combine with NumPy's ``ufunc.at``."""
        data, indices, updates = inputs
        places = tuple(np.moveaxis(indices, -1, 0))
        return (combined(data, places, updates, self.reduction),)

    @classmethod
    def substitute(cls, node: ir.Node) -> Substitute | str | None:
        """Stand for ONNX's ScatterND with a reduction; TensorRT has it without."""
        if node.domain or node.op_type != "ScatterND":
            return None
        reduction = as_reduction(node.attributes.get_string("reduction", "none"))
        if reduction is None:
            return "it has no reduction"
        return Substitute(cls(reduction), (0, 1, 2))

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(), [(5, 4, 3), np.array([[0], [4], [-1]]), (3, 4, 3)]),
            Example(cls("min"), [(6, 5), np.array([[0, 1], [5, 4], [0, 1]]), (3,)]),
            Example(
                cls(),
                [(100_000, 64), np.arange(100_000)[:, None] % 9_973, (100_000, 64)],
                timed=True,
            ),
        ]
