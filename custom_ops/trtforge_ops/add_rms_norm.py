"""AddRMSNorm: a residual added, and the root mean square normalization of the sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtforge import CustomOp, Example, Launch, Shape, Tactic
from trtforge_ops.rows import NORM_TACTICS, norm_tactic, row_launch

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class AddRMSNorm(CustomOp):
    """``sum = x + residual`` and ``y = RMSNorm(sum)``, as in each block of a transformer."""

    name = "trtforge::AddRMSNorm"
    inputs = ("x", "residual", "weight")
    outputs = ("y", "sum")
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "add_rms_norm.cu.jinja"
    tactics = NORM_TACTICS
    function = """
        sum = Add (x, residual)
        wide = Cast <to = 1> (sum)
        square = Mul (wide, wide)
        {% if opset >= 18 %}
        last = Constant <value_ints = [-1]> ()
        mean = ReduceMean <keepdims = 1> (square, last)
        {% else %}
        mean = ReduceMean <axes = [-1], keepdims = 1> (square)
        {% endif %}
        small = Constant <value_float = {{ epsilon }}> ()
        shifted = Add (mean, small)
        root = Sqrt (shifted)
        normal = Div (wide, root)
        wide_weight = Cast <to = 1> (weight)
        scaled = Mul (normal, wide_weight)
        y = CastLike (scaled, x)
    """

    epsilon: float = 1e-6
    """Added to the mean square."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shape of ``x`` twice."""
        return inputs[0], inputs[0]

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> Launch:
        """One row per group of lanes."""
        return row_launch(inputs[0], tactic)

    def tactic(self, dtype: str, inputs: tuple[Shape, ...]) -> Tactic:
        """Hold a whole row in registers."""
        return norm_tactic(dtype, inputs[0], early=False)

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Compute in float64, then round."""
        total = (inputs[0].astype(np.float64) + inputs[1].astype(np.float64)).astype(
            inputs[0].dtype
        )
        wide = total.astype(np.float64)
        root = np.sqrt((wide * wide).mean(-1, keepdims=True) + self.epsilon)
        return ((inputs[2].astype(np.float64) * wide / root).astype(total.dtype), total)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(), [(3, 5, 7), (3, 5, 7), (7,)]),
            Example(cls(), [(4, 64), (4, 64), (64,)]),
            Example(cls(), [(8192, 4096), (8192, 4096), (4096,)], timed=True),
        ]
