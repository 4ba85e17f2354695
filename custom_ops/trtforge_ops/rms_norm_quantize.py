"""RMSNormQuantize: root mean square normalization straight to FP8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtforge import CustomOp, Example, Launch, Shape, Tactic
from trtforge_ops.quantize import to_float8
from trtforge_ops.rows import NORM_TACTICS, norm_tactic, row_launch

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class RMSNormQuantize(CustomOp):
    """``y = fp8(RMSNorm(x) / scale)``: what feeds an FP8 matrix product, in one kernel."""

    name = "trtforge::RMSNormQuantize"
    inputs = ("x", "weight", "scale: float32")
    outputs = ("y: float8e4m3fn",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "rms_norm_quantize.cu.jinja"
    tactics = NORM_TACTICS
    since = 19
    function = """
        wide = Cast <to = 1> (x)
        square = Mul (wide, wide)
        last = Constant <value_ints = [-1]> ()
        mean = ReduceMean <keepdims = 1> (square, last)
        small = Constant <value_float = {{ epsilon }}> ()
        shifted = Add (mean, small)
        root = Sqrt (shifted)
        normal = Div (wide, root)
        wide_weight = Cast <to = 1> (weight)
        scaled = Mul (normal, wide_weight)
        rounded = CastLike (scaled, x)
        again = Cast <to = 1> (rounded)
        none = Sub (small, small)
        origin = Cast <to = 17> (none)
        y = QuantizeLinear (again, scale, origin)
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
        x, weight, scale = (array.astype(np.float64) for array in inputs)
        root = np.sqrt((x * x).mean(-1, keepdims=True) + self.epsilon)
        normal = (weight * x / root).astype(inputs[0].dtype).astype(np.float32)
        return (to_float8(normal / scale.astype(np.float32)),)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(), [(3, 5, 7), (7,), ()]),
            Example(cls(), [(4, 64), (64,), ()]),
            Example(cls(), [(8192, 4096), (4096,), ()], timed=True),
        ]
