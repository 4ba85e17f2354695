"""RMSNorm: root mean square normalization along the last axis (Zhang and Sennrich, 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtforge import CustomOp, Example, Launch, Shape, Tactic
from trtforge_ops.rows import NORM_TACTICS, norm_tactic, row_launch

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class RMSNorm(CustomOp):
    """``y = weight * x / sqrt(mean(x**2) + epsilon)`` along the last axis, as in LLaMA and T5."""

    name = "trtforge::RMSNorm"
    inputs = ("x", "weight")
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "rms_norm.cu.jinja"
    tactics = NORM_TACTICS
    function = """
        wide = Cast <to = 1> (x)
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
        """Return the shape of ``x``."""
        return (inputs[0],)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> Launch:
        """One row per group of lanes."""
        return row_launch(inputs[0], tactic)

    def tactic(self, dtype: str, inputs: tuple[Shape, ...]) -> Tactic:
        """Hold a whole row in registers."""
        return norm_tactic(dtype, inputs[0], early=True)

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Compute in float64, then round."""
        x, weight = (array.astype(np.float64) for array in inputs)
        root = np.sqrt((x * x).mean(-1, keepdims=True) + self.epsilon)
        return ((weight * x / root).astype(inputs[0].dtype),)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(), [(3, 5, 7), (7,)]),
            Example(cls(), [(4, 64), (64,)]),
            Example(cls(), [(8192, 4096), (4096,)], timed=True),
        ]
