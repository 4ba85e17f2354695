"""GroupNormNHWC: normalization per group of channels (Wu and He, 2018), channels last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np

from trtforge import CustomOp, Example, Launch, Shape, Tactic, ceil_div

Array = np.ndarray[Any, np.dtype[Any]]

PACK, BLOCK = 8, 256
"""Channels and threads: kPack and kBlock in the kernel."""
BLOCKS = 528
"""About how many blocks fill a large GPU: each works on a slice of an image."""
FEW, MANY = 8 * BLOCK * 264, 16 * BLOCK * BLOCKS
"""Packs that are enough work for half as many blocks, and for all of them."""


@dataclass(frozen=True)
class GroupNormNHWC(CustomOp):
    """``y = act(weight * (x - mean) / sqrt(variance + epsilon) + bias)``; x is [N, H, W, C]."""

    name = "trtforge::GroupNormNHWC"
    inputs = ("x", "weight", "bias")
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "group_norm_nhwc.cu.jinja"
    tactics: ClassVar = {"ahead": (8, 4), "blocks": (BLOCKS, 264, 132), "last": (1, 0)}
    function = """
        {% set old_axes, axes = ("axes = [-1], ", "") if opset < 18 else ("", ", last") %}
        last = Constant <value_ints = [-1]> ()
        first = Transpose <perm = [0, 3, 1, 2]> (x)
        wide = Cast <to = 1> (first)
        shape = Shape (wide)
        by_group = Constant <value_ints = [0, {{ groups }}, -1]> ()
        grouped = Reshape (wide, by_group)
        mean = ReduceMean <{{ old_axes }}keepdims = 1> (grouped{{ axes }})
        distance = Sub (grouped, mean)
        square = Mul (distance, distance)
        variance = ReduceMean <{{ old_axes }}keepdims = 1> (square{{ axes }})
        small = Constant <value_float = {{ epsilon }}> ()
        shifted = Add (variance, small)
        root = Sqrt (shifted)
        normal = Div (distance, root)
        channels = Shape (weight)
        keep = Constant <value_ints = [0]> ()
        rest = Constant <value_ints = [-1]> ()
        by_channel = Concat <axis = 0> (keep, channels, rest)
        flat = Reshape (wide, by_channel)
        flat_shape = Shape (flat)
        aligned = Reshape (normal, flat_shape)
        one = Constant <value_ints = [1]> ()
        weight_wide = Cast <to = 1> (weight)
        bias_wide = Cast <to = 1> (bias)
        weight_column = Unsqueeze (weight_wide, one)
        bias_column = Unsqueeze (bias_wide, one)
        scaled = Mul (aligned, weight_column)
        sum = Add (scaled, bias_column)
        {% if activation == "silu" %}
        gate = Sigmoid (sum)
        active = Mul (sum, gate)
        {% else %}
        active = Identity (sum)
        {% endif %}
        shaped = Reshape (active, shape)
        back = Transpose <perm = [0, 2, 3, 1]> (shaped)
        y = CastLike (back, x)
    """

    groups: int = 32
    """Groups of channels that share mean and variance."""
    epsilon: float = 1e-5
    """Added to the variance."""
    activation: Literal["none", "silu"] = "none"
    """What follows in the same kernel."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the shape of ``x``."""
        return (inputs[0],)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> tuple[Launch, ...]:
        """Measure each slice of an image, then apply."""
        samples, *space, channels = inputs[0]
        slices = _slices(samples, tactic["blocks"])
        lanes = max(1, min(ceil_div(channels, PACK), BLOCK))
        scalars = (samples, slices, lanes, BLOCK // lanes, prod(space), channels)
        grid, held = max(1, samples * slices), 16 * tactic["ahead"] * BLOCK
        sums = 8 * PACK * BLOCK
        return (
            Launch(grid, BLOCK, scalars, max(held, sums), kernel="measure"),
            Launch(grid, BLOCK, scalars, held, kernel="apply"),
        )

    def tactic(self, dtype: str, inputs: tuple[Shape, ...]) -> Tactic:
        """Take as many blocks, and read as far ahead, as there is work for."""
        del dtype
        *pixels, channels = inputs[0]
        packs = prod(pixels) * ceil_div(channels, PACK)
        if packs >= MANY:
            return {"ahead": 8, "blocks": BLOCKS, "last": 1}
        return {"ahead": 4, "blocks": 264 if packs >= FEW else 132, "last": 1}

    def workspace(self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...]) -> int:
        """Two floats per group of each slice, of the most slices there are."""
        samples = inputs[0][0]
        return 8 * samples * _slices(samples, BLOCKS) * self.groups

    def names(self) -> Mapping[str, object]:
        """Tell the kernel how many threads a block has."""
        return {"block": BLOCK}

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Compute in float64, then round."""
        x, weight, bias = (array.astype(np.float64) for array in inputs)
        x = np.moveaxis(x, -1, 1)
        grouped = x.reshape(len(x), self.groups, -1)
        distance = grouped - grouped.mean(-1, keepdims=True)
        root = np.sqrt((distance * distance).mean(-1, keepdims=True) + self.epsilon)
        channels = (-1, *(1,) * (x.ndim - 2))
        y = (distance / root).reshape(x.shape) * weight.reshape(channels) + bias.reshape(channels)
        y = y / (1 + np.exp(-y)) if self.activation == "silu" else y
        return (np.moveaxis(y, 1, -1).astype(inputs[0].dtype),)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(), [(2, 5, 3, 32), (32,), (32,)]),
            Example(cls(groups=4, activation="silu"), [(2, 9, 7, 12), (12,), (12,)]),
            Example(cls(activation="silu"), [(8, 64, 64, 320), (320,), (320,)], timed=True),
        ]


def _slices(samples: int, blocks: int) -> int:
    """Return how many slices an image has, of `blocks` for all images."""
    return max(1, blocks // max(samples, 1))
