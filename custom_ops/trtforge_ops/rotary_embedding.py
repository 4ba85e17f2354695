"""RotaryEmbedding: positions as rotations (Su et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from trtforge import CustomOp, Example, Launch, Shape, Tactic, ceil_div
from trtforge_ops.strips import PACK

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class RotaryEmbedding(CustomOp):
    """``(a, b)`` becomes ``(a cos - b sin, b cos + a sin)`` for each pair of the last axis.

    ``x`` is [batch, heads, positions, size], with ``heads_last`` [batch, positions, heads, size];
    cosine and sine are [positions, size / 2].
    """

    name = "trtforge::RotaryEmbedding"
    inputs = ("x", "cosine", "sine")
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "rotary_embedding.cu.jinja"
    tactics: ClassVar = {"block": (256, 128, 512)}
    function = """
        {% if heads_last %}
        middle = Constant <value_ints = [1]> ()
        c = Unsqueeze (cosine, middle)
        s = Unsqueeze (sine, middle)
        {% else %}
        c = Identity (cosine)
        s = Identity (sine)
        {% endif %}
        {% if interleaved %}
        pairs_shape = Constant <value_ints = [0, 0, 0, -1, 2]> ()
        pairs = Reshape (x, pairs_shape)
        first, second = Split <axis = -1{% if opset >= 18 %}, num_outputs = 2{% endif %}> (pairs)
        end = Constant <value_ints = [-1]> ()
        a = Squeeze (first, end)
        b = Squeeze (second, end)
        {% else %}
        a, b = Split <axis = -1{% if opset >= 18 %}, num_outputs = 2{% endif %}> (x)
        {% endif %}
        ac = Mul (a, c)
        bs = Mul (b, s)
        bc = Mul (b, c)
        as_ = Mul (a, s)
        left = Sub (ac, bs)
        right = Add (bc, as_)
        {% if interleaved %}
        left_pairs = Unsqueeze (left, end)
        right_pairs = Unsqueeze (right, end)
        together = Concat <axis = -1> (left_pairs, right_pairs)
        shape = Shape (x)
        y = Reshape (together, shape)
        {% else %}
        y = Concat <axis = -1> (left, right)
        {% endif %}
    """

    interleaved: bool = False
    """Whether a pair is two neighbours (GPT-J) instead of one entry of each half (GPT-NeoX)."""
    heads_last: bool = False
    """Whether the axes are batch, positions, heads, size."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shape of ``x``."""
        return (inputs[0],)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> Launch:
        """Eight pairs per thread."""
        rows, half = prod(inputs[0][:-1]), inputs[0][-1] // 2
        threads = rows * ceil_div(half, PACK)
        scalars = (rows, half, inputs[0][2] if self.heads_last else 1, inputs[1][0])
        return Launch(max(1, ceil_div(threads, tactic["block"])), tactic["block"], scalars)

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Compute in float64, then round."""
        x, cosine, sine = (array.astype(np.float64) for array in inputs)
        if self.heads_last:
            cosine, sine = cosine[:, None], sine[:, None]
        half = x.shape[-1] // 2
        a, b = (x[..., ::2], x[..., 1::2]) if self.interleaved else (x[..., :half], x[..., half:])
        turned = a * cosine - b * sine, b * cosine + a * sine
        y = (
            np.stack(turned, -1).reshape(x.shape)
            if self.interleaved
            else np.concatenate(turned, -1)
        )
        return (y.astype(inputs[0].dtype),)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(), [(2, 3, 5, 32), (5, 16), (5, 16)]),
            Example(cls(interleaved=True), [(2, 3, 5, 6), (5, 3), (5, 3)]),
            Example(cls(heads_last=True), [(2, 5, 3, 6), (5, 3), (5, 3)]),
            Example(cls(), [(8, 32, 2048, 128), (2048, 64), (2048, 64)], timed=True),
        ]
