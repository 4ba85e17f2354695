"""CumSum and CumProd: running sums and products along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from trtforge import CustomOp, Example, Launch, Shape, Tactic, ceil_div

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class CumSum(CustomOp):
    """``y[i] = x[0] + … + x[i]`` along ``axis``; floats are added in float32."""

    name = "trtforge::CumSum"
    inputs = ("x",)
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16", "int32", "int64")
    kernel = "cumulative.cu.jinja"
    tactics: ClassVar = {"block": (128, 256, 512, 1024), "items": (4, 1, 8)}
    function = """
        axis = Constant <value_int = {{ axis }}> ()
        y = CumSum <exclusive = {{ exclusive | int }}, reverse = {{ reverse | int }}> (x, axis)
    """

    axis: int = -1
    """The axis; a negative one counts from the end."""
    exclusive: bool = False
    """Whether x[i] itself is left out."""
    reverse: bool = False
    """Whether it runs from the end to the start."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shape of ``x``."""
        return (inputs[0],)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> Launch:
        """A block per line where its elements are neighbours in memory, else a thread per line."""
        shape, block = inputs[0], tactic["block"]
        axis = self.axis % len(shape)
        outer, length, inner = prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
        lines, scalars = outer * inner, (outer * inner, length, inner)
        if inner == 1:
            return Launch(max(1, lines), block, scalars, kernel="rows")
        return Launch(max(1, ceil_div(lines, block)), block, scalars, kernel="columns")

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Accumulate in float64, or in the type of integers, then round."""
        return (self._accumulate(inputs[0], np.cumsum, 0),)

    def _accumulate(self, x: Array, along: Any, nothing: int) -> Array:
        wide = x if x.dtype.kind == "i" else x.astype(np.float64)
        lines = np.moveaxis(wide, self.axis, -1)
        lines = lines[..., ::-1] if self.reverse else lines
        y = along(lines, axis=-1, dtype=wide.dtype)
        if self.exclusive:
            y = np.concatenate((np.full_like(y[..., :1], nothing), y[..., :-1]), -1)
        y = y[..., ::-1] if self.reverse else y
        back: Array = np.moveaxis(y, -1, self.axis).astype(x.dtype)
        return back

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        x = np.arange(105).reshape(3, 5, 7) % 4  # factors near 1: their products stay small
        return [
            Example(cls(), [1 + x / 100]),
            Example(cls(1, exclusive=True), [1 + x / 100]),
            Example(cls(-2, reverse=True), [1 + x / 100]),
            Example(cls(), [(8192, 4096)], timed=True, atol=1e-2),
        ]


@dataclass(frozen=True)
class CumProd(CumSum):
    """``y[i] = x[0] * … * x[i]`` along ``axis``; floats are multiplied in float32."""

    name = "trtforge::CumProd"
    since = 18
    function = """
        {% set order = ("Less" if reverse else "Greater") ~ ("" if exclusive else "OrEqual") %}
        shape = Shape (x)
        start = Constant <value_ints = [0]> ()
        one = Constant <value_ints = [1]> ()
        axis = Constant <value_ints = [{{ axis }}]> ()
        next = Constant <value_ints = [{{ 2**31 if axis == -1 else axis + 1 }}]> ()
        end = Constant <value_ints = [{{ 2**31 }}]> ()
        before = Slice (shape, start, axis)
        behind = Slice (shape, next, end)
        before_one = Concat <axis = 0> (before, one)
        behind_one = Concat <axis = 0> (behind, one)
        outer = ReduceProd (before_one)
        inner = ReduceProd (behind_one)
        length = Gather (shape, axis)
        blocks_shape = Concat <axis = 0> (outer, one, length, inner)
        blocks = Reshape <allowzero = 1> (x, blocks_shape)
        count = Squeeze (length)
        zero = Constant <value_int = 0> ()
        step = Constant <value_int = 1> ()
        places = Range (zero, count, step)
        row_axes = Constant <value_ints = [0, 2, 3]> ()
        column_axes = Constant <value_ints = [0, 1, 3]> ()
        rows = Unsqueeze (places, row_axes)
        columns = Unsqueeze (places, column_axes)
        taken = {{ order }} (rows, columns)
        number = Constant <value_float = 1.0> ()
        nothing = CastLike (number, x)
        factors = Where (taken, blocks, nothing)
        along = Constant <value_ints = [2]> ()
        product = ReduceProd <keepdims = 0> (factors, along)
        y = Reshape <allowzero = 1> (product, shape)
    """

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Accumulate in float64, or in the type of integers, then round."""
        return (self._accumulate(inputs[0], np.cumprod, 1),)
