"""ScatterElements with a reduction: single updates along one axis, combined with what is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from trtforge import CustomOp, Example, Launch, Shape, Substitute, Tactic, ceil_div
from trtforge_ops.scatter import BLOCK, MOST_AXES, Reduction, as_reduction, combined, lengths

Array = np.ndarray[Any, np.dtype[Any]]

PACK = 4
"""Elements that a thread copies at once."""
SLAB = 512
"""Columns behind the axis that are updated at a time."""


@dataclass(frozen=True)
class ScatterElements(CustomOp):
    """``y = data``, then for each place p of ``indices``: ``y[p with indices[p] along axis]``.

    The entry there becomes ``reduction(entry, updates[p])``. All three inputs have the same rank.
    Float updates of the same place are combined in any order. Sums of 16-bit types would lose
    small updates: cast to float32 before it.
    """

    name = "trtforge::ScatterElements"
    inputs = ("data", "indices: int64", "updates")
    outputs = ("y",)
    dtypes = ("float32", "int32", "int64")
    kernel = "scatter_elements.cu.jinja"
    since = 18
    function = """
        y = ScatterElements <axis = {{ axis }}, reduction = "{{ reduction }}"> (
            data, indices, updates
        )
    """

    axis: int = 0
    """The axis that the indices name places on; a negative one counts from the end."""
    reduction: Reduction = "add"
    """How an update is combined with what is there."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shape of ``data``."""
        return (inputs[0],)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> tuple[Launch, ...]:
        """Copy the data; then one thread per update."""
        data, indices, _ = inputs
        axis = self.axis % len(data)
        before, after = prod(indices[:axis]), prod(indices[axis + 1 :])
        slabs = max(1, ceil_div(after, SLAB))
        width = max(1, ceil_div(after, slabs))
        parts = (before, indices[axis], after, slabs, width)
        axes = (len(data), axis + MOST_AXES - len(data))
        scalars = (prod(data), *axes, *parts, *lengths(data), *lengths(indices))
        threads = before * slabs * indices[axis] * width
        return (
            Launch(max(1, ceil_div(prod(data), PACK * BLOCK)), BLOCK, scalars, kernel="copy"),
            Launch(max(1, ceil_div(threads, BLOCK)), BLOCK, scalars, kernel="apply"),
        )

    def names(self) -> Mapping[str, object]:
        """Tell the kernel how much a thread copies."""
        return {"pack": PACK}

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Combine with NumPy's ``ufunc.at``."""
        data, indices, updates = inputs
        places: list[Array] = list(np.indices(indices.shape))
        places[self.axis] = indices
        return (combined(data, tuple(places), updates, self.reduction),)

    @classmethod
    def substitute(cls, node: ir.Node) -> Substitute | str | None:
        """Stand for ONNX's ScatterElements with a reduction; TensorRT has it without."""
        if node.domain or node.op_type != "ScatterElements":
            return None
        reduction = as_reduction(node.attributes.get_string("reduction", "none"))
        if reduction is None:
            return "it has no reduction"
        return Substitute(cls(node.attributes.get_int("axis", 0), reduction), (0, 1, 2))

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(0), [(5, 4), np.array([[0, -1, 2, 2]]), (1, 4)]),
            Example(cls(-1, "max"), [(2, 3), np.array([[0, 0], [2, 1]]), (2, 2)]),
            Example(
                cls(0),
                [(10_000, 64), np.arange(640_000).reshape(-1, 64) % 9_973, (10_000, 64)],
                timed=True,
            ),
        ]
