"""MaskedSoftmax: the scores of attention, scaled, masked and normalized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trtforge import CustomOp, Example, Launch, Shape, Tactic
from trtforge_ops.rows import TACTICS, row_launch, row_tactic

Array = np.ndarray[Any, np.dtype[Any]]

SHORT = 1024
"""Columns up to which two packs a thread are better than four."""


@dataclass(frozen=True)
class MaskedSoftmax(CustomOp):
    """``y = softmax(scale * x + mask)`` along the last axis.

    ``x`` is [batch, heads, queries, keys]; the mask is added, [batch, 1, queries or 1, keys].
    """

    name = "trtforge::MaskedSoftmax"
    inputs = ("x", "mask")
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "masked_softmax.cu.jinja"
    tactics = TACTICS
    function = """
        wide = Cast <to = 1> (x)
        factor = Constant <value_float = {{ scale }}> ()
        scaled = Mul (wide, factor)
        wide_mask = Cast <to = 1> (mask)
        masked = Add (scaled, wide_mask)
        shares = Softmax <axis = -1> (masked)
        y = CastLike (shares, x)
    """

    scale: float = 1.0
    """What the scores are multiplied by first, 1 / sqrt(head size) as a rule."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shape of ``x``."""
        return (inputs[0],)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> Launch:
        """One row per group of lanes."""
        _, heads, queries, _ = inputs[0]
        launch = row_launch(inputs[0], tactic)
        return replace(
            launch, scalars=(*launch.scalars, max(queries, 1), max(heads, 1), inputs[1][2])
        )

    def tactic(self, dtype: str, inputs: tuple[Shape, ...]) -> Tactic:
        """Hold a whole row in registers, a short one in fewer of more threads."""
        columns = inputs[0][-1]
        return row_tactic(dtype, columns, 2 if columns <= SHORT else 4)

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Compute in float64, then round."""
        x, mask = (array.astype(np.float64) for array in inputs)
        scores = self.scale * x + mask
        powers = np.exp(scores - scores.max(-1, keepdims=True, initial=-np.inf))
        return ((powers / powers.sum(-1, keepdims=True)).astype(inputs[0].dtype),)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(0.125), [(2, 3, 5, 16), (2, 1, 5, 16)]),
            Example(cls(), [(2, 3, 5, 7), (2, 1, 1, 7)]),
            Example(cls(0.125), [(8, 32, 512, 512), (8, 1, 512, 512)], timed=True),
        ]
