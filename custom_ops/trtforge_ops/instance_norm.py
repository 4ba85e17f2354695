"""InstanceNorm: each channel of each sample normalized over its space, in 1, 2 or 3 dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from trtforge import CustomOp, Example, Launch, Shape, Tactic
from trtforge_ops.rows import TACTICS, row_launch, row_tactic

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class InstanceNorm(CustomOp):
    """``y = weight * (x - mean) / sqrt(variance + epsilon) + bias`` over each channel's space."""

    name = "trtforge::InstanceNorm"
    inputs = ("x", "weight", "bias")
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "instance_norm.cu.jinja"
    tactics = TACTICS
    function = """
        wide = Cast <to = 1> (x)
        flat_shape = Constant <value_ints = [0, 0, -1]> ()
        flat = Reshape (wide, flat_shape)
        {% set old_axes, axes = ("axes = [-1], ", "") if opset < 18 else ("", ", last") %}
        last = Constant <value_ints = [-1]> ()
        mean = ReduceMean <{{ old_axes }}keepdims = 1> (flat{{ axes }})
        distance = Sub (flat, mean)
        square = Mul (distance, distance)
        variance = ReduceMean <{{ old_axes }}keepdims = 1> (square{{ axes }})
        small = Constant <value_float = {{ epsilon }}> ()
        shifted = Add (variance, small)
        root = Sqrt (shifted)
        normal = Div (distance, root)
        one = Constant <value_ints = [1]> ()
        wide_weight = Cast <to = 1> (weight)
        wide_bias = Cast <to = 1> (bias)
        weight_column = Unsqueeze (wide_weight, one)
        bias_column = Unsqueeze (wide_bias, one)
        scaled = Mul (normal, weight_column)
        sum = Add (scaled, bias_column)
        shape = Shape (x)
        shaped = Reshape (sum, shape)
        y = CastLike (shaped, x)
    """

    epsilon: float = 1e-5
    """Added to the variance."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shape of ``x``."""
        return (inputs[0],)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> Launch:
        """One channel of one sample per group of lanes."""
        samples, channels, *space = inputs[0]
        launch = row_launch((samples * channels, prod(space)), tactic)
        return replace(launch, scalars=(*launch.scalars, channels))

    def tactic(self, dtype: str, inputs: tuple[Shape, ...]) -> Tactic:
        """Hold a whole channel in registers, where it fits."""
        return row_tactic(dtype, prod(inputs[0][2:]))

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Compute in float64, then round."""
        x, weight, bias = (array.astype(np.float64) for array in inputs)
        space = tuple(range(2, x.ndim))
        channels = (-1, *(1 for _ in space))
        distance = x - x.mean(space, keepdims=True)
        root = np.sqrt((distance * distance).mean(space, keepdims=True) + self.epsilon)
        result = weight.reshape(channels) * distance / root + bias.reshape(channels)
        return (result.astype(inputs[0].dtype),)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(), [(2, 3, 7), (3,), (3,)]),
            Example(cls(), [(2, 3, 8, 8), (3,), (3,)]),
            Example(cls(), [(1, 2, 3, 4, 5), (2,), (2,)]),
            Example(cls(), [(8, 64, 128, 128), (64,), (64,)], timed=True),
        ]
