"""Quantize: to INT8 or FP8 E4M3, with one scale or one per channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from trtforge import CustomOp, Example, Launch, Shape, Tactic
from trtforge_ops.strips import TACTICS, strip_launch, strip_tactic

Array = np.ndarray[Any, np.dtype[Any]]

PACK = 16  # kPack in the kernel


def to_float8(values: Array) -> Array:
    """Round to FP8 E4M3 (finite); what is too large becomes 448 with its sign, NaN stays NaN."""
    return np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn)


@dataclass(frozen=True)
class QuantizeInt8(CustomOp):
    """``y = int8(round(x / scale))``, saturated; one scale, or one per entry of axis 1."""

    name = "trtforge::QuantizeInt8"
    inputs = ("x", "scale: float32")
    outputs = ("y: int8",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "quantize.cu.jinja"
    tactics = TACTICS
    function = """
        wide = Cast <to = 1> (x)
        none = Sub (scale, scale)
        origin = Cast <to = {{ 3 if dtype_of.y == "int8" else 17 }}> (none)
        y = QuantizeLinear <axis = 1> (wide, scale, origin)
    """

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shape of ``x``."""
        return (inputs[0],)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> Launch:
        """One strip per block; a row is what shares a scale."""
        channels = prod(inputs[1])
        rows = 1 if channels == 1 else prod(inputs[0][:2])
        columns = prod(inputs[0]) // max(rows, 1)
        return strip_launch(rows, columns, tactic, (rows, columns, channels), PACK)

    def tactic(self, dtype: str, inputs: tuple[Shape, ...]) -> Tactic:
        """Give small tensors more threads."""
        del dtype
        return strip_tactic(prod(inputs[0]))

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Divide in float32, as ONNX does, then round to nearest even and saturate."""
        return (np.clip(np.rint(_scaled(*inputs)), -128, 127).astype(np.int8),)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(), [(2, 3, 5, 7), (3,)]),
            Example(cls(), [(4, 64), ()]),
            Example(cls(), [(8192, 4096), ()], timed=True),
        ]


@dataclass(frozen=True)
class QuantizeFloat8(QuantizeInt8):
    """``y = fp8(x / scale)``, E4M3, saturated; one scale, or one per entry of axis 1."""

    name = "trtforge::QuantizeFloat8"
    outputs = ("y: float8e4m3fn",)
    since = 19

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Divide in float32, as ONNX does, then round to nearest even and saturate."""
        return (to_float8(_scaled(*inputs)),)


def _scaled(x: Array, scale: Array) -> Array:
    by = scale.reshape(-1, *(1,) * (x.ndim - 2)) if scale.ndim else scale
    return x.astype(np.float32) / by
