"""A custom op; its kernel is in ``swish.cu.jinja`` beside this file."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

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
    tactics: ClassVar = {"block": (256, 512)}
    function = """
        beta_float = Constant <value_float: float = @beta> ()
        beta_t = CastLike (beta_float, x)
        scaled = Mul (x, beta_t)
        gate = Sigmoid (scaled)
        y = Mul (x, gate)
    """

    beta: float = 1.0
    """Steepness."""

    def shapes(self, *inputs: tf.Shape) -> tuple[tf.Shape, ...]:
        """Return the shape of ``x``."""
        return (inputs[0],)

    def launch(
        self,
        inputs: tuple[tf.Shape, ...],
        outputs: tuple[tf.Shape, ...],
        tactic: tf.Tactic,
    ) -> tf.Launch:
        """One thread per element."""
        count, block = prod(outputs[0]), tactic["block"]
        return tf.Launch(grid=max(1, tf.ceil_div(count, block)), block=block, scalars=(count,))

    def reference(self, *inputs: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], ...]:
        """Compute in float64, then round."""
        x = inputs[0].astype(np.float64)
        return ((x / (1 + np.exp(-self.beta * x))).astype(inputs[0].dtype),)

    @classmethod
    def examples(cls) -> list[tf.Example]:
        """Return two sizes for `trtforge op check`, and one for `trtforge op bench`."""
        return [
            tf.Example(cls(), [(2, 3)]),
            tf.Example(cls(beta=1.702), [(1000,)]),
            tf.Example(cls(), [(8192, 4096)], timed=True),
        ]
