"""A custom op; its kernel is in ``swish.cu.jinja`` beside this file."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

import trtforge as tf


@dataclass(frozen=True)
class Swish(tf.CustomOp):
    """``y = x * sigmoid(beta * x)``."""

    name = "acme::Swish"
    inputs = ("x",)
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "swish.cu.jinja"
    function = """
        beta_float = Constant <value_float: float = @beta> ()
        beta_t = CastLike (beta_float, x)
        scaled = Mul (x, beta_t)
        gate = Sigmoid (scaled)
        y = Mul (x, gate)
    """

    beta: float = 1.0
    """Steepness."""

    def shapes(self, *inputs: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        """Return the shape of ``x``."""
        return (inputs[0],)

    def launch(
        self, inputs: tuple[tuple[int, ...], ...], outputs: tuple[tuple[int, ...], ...]
    ) -> tf.Launch:
        """One thread per element."""
        count = prod(outputs[0])
        return tf.Launch(grid=max(1, tf.ceil_div(count, 256)), block=256, scalars=(count,))

    def reference(self, *inputs: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], ...]:
        """Compute in float64, then round."""
        x = inputs[0].astype(np.float64)
        return ((x / (1 + np.exp(-self.beta * x))).astype(inputs[0].dtype),)
