"""LayerNorm: normalization along the last axis (Ba, Kiros and Hinton, 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtforge import CustomOp, Example, Launch, Shape, Tactic
from trtforge_ops.rows import NORM_TACTICS, norm_tactic, row_launch

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class LayerNorm(CustomOp):
    """``y = weight * (x - mean) / sqrt(variance + epsilon) + bias`` along the last axis."""

    name = "trtforge::LayerNorm"
    inputs = ("x", "weight", "bias")
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "layer_norm.cu.jinja"
    tactics = NORM_TACTICS
    function = """
        wide = Cast <to = 1> (x)
        {% if opset >= 18 %}
        last = Constant <value_ints = [-1]> ()
        mean = ReduceMean <keepdims = 1> (wide, last)
        {% else %}
        mean = ReduceMean <axes = [-1], keepdims = 1> (wide)
        {% endif %}
        distance = Sub (wide, mean)
        square = Mul (distance, distance)
        {% if opset >= 18 %}
        variance = ReduceMean <keepdims = 1> (square, last)
        {% else %}
        variance = ReduceMean <axes = [-1], keepdims = 1> (square)
        {% endif %}
        small = Constant <value_float = {{ epsilon }}> ()
        shifted = Add (variance, small)
        root = Sqrt (shifted)
        normal = Div (distance, root)
        wide_weight = Cast <to = 1> (weight)
        wide_bias = Cast <to = 1> (bias)
        scaled = Mul (normal, wide_weight)
        sum = Add (scaled, wide_bias)
        y = CastLike (sum, x)
    """

    epsilon: float = 1e-5
    """Added to the variance."""

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
        x, weight, bias = (array.astype(np.float64) for array in inputs)
        distance = x - x.mean(-1, keepdims=True)
        root = np.sqrt((distance * distance).mean(-1, keepdims=True) + self.epsilon)
        return ((weight * distance / root + bias).astype(inputs[0].dtype),)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(), [(3, 5, 7), (7,), (7,)]),
            Example(cls(), [(4, 64), (64,), (64,)]),
            Example(cls(), [(8192, 4096), (4096,), (4096,)], timed=True),
        ]
