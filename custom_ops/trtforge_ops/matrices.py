"""Determinant and inverse of many small matrices: elimination with partial pivoting.

The lanes of a warp that share a matrix have its rows in registers. In place of swapping rows each
one knows where it would be; the inverse comes in place of the columns that are done (Gauss-Jordan).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from trtforge import (
    CustomOp,
    Example,
    Launch,
    RequestError,
    Shape,
    Substitute,
    Tactic,
    ceil_div,
)

Array = np.ndarray[Any, np.dtype[Any]]
SIZES = (4, 8, 16, 32, 64)
"""Rows for which the template has a kernel; fewer leave registers empty."""
MOST = max(SIZES)
BLOCK = 64
WARP = 32
FEW = 8
"""Rows of which a lane takes two, even where the kernel's are not all there."""


def _rows(size: int, tactic: Tactic) -> int:
    """Return how many rows of a matrix of up to ``size`` a lane has: two of 64 at most."""
    return tactic["rows"] if size <= WARP else size // WARP


@dataclass(frozen=True)
class Det(CustomOp):
    """The determinants of ``x`` […, n, n], n at most 64, computed in float32."""

    name = "trtforge::Det"
    inputs = ("x",)
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "matrices.cu.jinja"
    tactics: ClassVar = {"rows": (2, 1, 4)}  # of a matrix that a lane has
    function = """
        wide = Cast <to = 1> (x)
        result = Det (wide)
        y = CastLike (result, x)
    """

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shape of ``x`` without the last two axes."""
        return (inputs[0][:-2],)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> Launch:
        """Some lanes of a warp per matrix.

        Raises:
            RequestError: the matrices are too large, or not square.
        """
        *batch, rows, size = inputs[0]
        if rows != size or size > MOST:
            raise RequestError(
                f"custom op {self.name} takes square matrices of at most {MOST} rows, "
                f"not {rows}x{size}"
            )
        count, held = prod(batch), next(each for each in SIZES if size <= each)
        grid = max(1, ceil_div(count, BLOCK // (held // _rows(held, tactic))))
        return Launch(grid, BLOCK, (count, size), kernel=str(held))

    def tactic(self, dtype: str, inputs: tuple[Shape, ...]) -> Tactic:
        """Give a lane more rows where the kernel's are all there; measured with float32."""
        del dtype
        size = inputs[0][-1]
        return {"rows": 4 if size % 16 == 0 else 2 if size <= FEW else 1}

    def names(self) -> dict[str, object]:
        """Return the kernels' sizes."""
        return {"sizes": SIZES, "block": BLOCK}

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Compute in float64, then round."""
        return (np.asarray(np.linalg.det(inputs[0].astype(np.float64))).astype(inputs[0].dtype),)

    @classmethod
    def substitute(cls, node: ir.Node) -> Substitute | str | None:
        """Stand for ONNX's Det of matrices that are small enough."""
        if cls is not Det or node.domain or node.op_type != "Det":
            return None
        shape = node.inputs[0].shape if node.inputs[0] is not None else None
        if shape is None or not isinstance(shape[-1], int) or shape[-1] > MOST:
            return f"its matrices are not known to have at most {MOST} rows"
        return Substitute(cls(), (0,))

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        x = np.random.default_rng(0).standard_normal((2, 17, 17))  # near 1: well conditioned
        return [
            Example(cls(), [np.eye(4) + x[:, :4, :4] / 10]),
            Example(cls(), [np.eye(17) + x / 100]),
            Example(cls(), [(100_000, 16, 16)], timed=True),
        ]


@dataclass(frozen=True)
class Inverse(Det):
    """The inverses of ``x`` […, n, n], n at most 64, computed in float32.

    A singular matrix gives infinities and NaN. The ONNX function cannot choose pivots: it iterates
    ``y = y (2 - x y)`` (Schulz, 1933) 40 times, from the start of Pan and Reif (1985), which is
    enough for condition numbers of thousands.
    """

    name = "trtforge::Inverse"
    since = 18
    function = """
        wide = Cast <to = 1> (x)
        shape = Shape (x)
        last = Constant <value_ints = [-1]> ()
        rows = Gather (shape, last)
        batch_shape = Concat <axis = 0> (last, rows, rows)
        matrix = Reshape (wide, batch_shape)
        size = Abs (matrix)
        one = Constant <value_ints = [1]> ()
        two = Constant <value_ints = [2]> ()
        column_sums = ReduceSum (size, one)
        row_sums = ReduceSum (size, two)
        largest_column = ReduceMax (column_sums, two)
        largest_row = ReduceMax (row_sums, one)
        scale = Mul (largest_column, largest_row)
        turned = Transpose <perm = [0, 2, 1]> (matrix)
        y0 = Div (turned, scale)
        count = Squeeze (rows)
        zero = Constant <value_int = 0> ()
        step = Constant <value_int = 1> ()
        numbers = Range (zero, count, step)
        column = Unsqueeze (numbers, one)
        diagonal = Equal (numbers, column)
        unit = Cast <to = 1> (diagonal)
        twice = Add (unit, unit)
        {% for i in range(40) %}
        p{{ i }} = MatMul (matrix, y{{ i }})
        r{{ i }} = Sub (twice, p{{ i }})
        y{{ i + 1 }} = MatMul (y{{ i }}, r{{ i }})
        {% endfor %}
        shaped = Reshape (y40, shape)
        y = CastLike (shaped, x)
    """

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shape of ``x``."""
        return (inputs[0],)

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Compute in float64, then round."""
        return (np.linalg.inv(inputs[0].astype(np.float64)).astype(inputs[0].dtype),)
