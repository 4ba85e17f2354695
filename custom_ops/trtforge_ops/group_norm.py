"""GroupNorm: normalization per group of channels (Wu and He, 2018), channels first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np

from trtforge import CustomOp, Example, Launch, Shape, Tactic, ceil_div

Array = np.ndarray[Any, np.dtype[Any]]

PACK = 8  # elements of a thread at once, kPack in the kernel
HELD = 256 * 8 * PACK
"""Elements of a group that the registers of 256 threads hold."""
MANY, WHOLE = 128, 2**18
"""So many groups are enough work for a large GPU, and so large a group is enough for one block."""


@dataclass(frozen=True)
class GroupNorm(CustomOp):
    """``y = act(weight[c] * (x - mean) / sqrt(variance + epsilon) + bias[c])``; x is [N, C, …]."""

    name = "trtforge::GroupNorm"
    inputs = ("x", "weight", "bias")
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "group_norm.cu.jinja"
    tactics: ClassVar = {
        "block": (256, 512, 1024), "items": (4, 2, 6, 8), "whole": (0, 1), "kept": (0, 12),
    }  # fmt: skip
    function = """
        {% set old_axes, axes = ("axes = [-1], ", "") if opset < 18 else ("", ", last") %}
        last = Constant <value_ints = [-1]> ()
        wide = Cast <to = 1> (x)
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
        y = CastLike (shaped, x)
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
        """One block for each group, or measure each chunk of a group, then apply."""
        samples, channels, *space = inputs[0]
        size, groups = channels // self.groups * prod(space), samples * self.groups
        chunks = ceil_div(size, tactic["block"] * PACK * tactic["items"])
        scalars = (size, prod(space), channels // self.groups, self.groups)
        if tactic["whole"]:
            grid, shared = max(1, groups), 16 * tactic["block"] * tactic["kept"]
            return (Launch(grid, tactic["block"], (groups, *scalars), shared, kernel="whole"),)
        grid = max(1, groups * chunks)
        return (
            Launch(grid, tactic["block"], (chunks, *scalars), kernel="measure"),
            Launch(grid, tactic["block"], (chunks, *scalars), kernel="apply"),
        )

    def tactic(self, dtype: str, inputs: tuple[Shape, ...]) -> Tactic:
        """Give each group to one block where registers hold it, or where groups fill the GPU."""
        del dtype
        samples, channels, *space = inputs[0]
        size, groups = channels // self.groups * prod(space), samples * self.groups
        if size <= HELD:
            return {"block": 256, "items": 8, "whole": 1, "kept": 0}
        if groups >= MANY and size <= WHOLE:
            return {"block": 1024, "items": 4, "whole": 1, "kept": 0}
        return {"block": 256, "items": 4, "whole": 0, "kept": 0}

    def workspace(self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...]) -> int:
        """Two floats per chunk, of the smallest chunks there are."""
        samples, channels, *space = inputs[0]
        chunk = min(self.tactics["block"]) * PACK * min(self.tactics["items"])
        size = channels // self.groups * prod(space)
        return 8 * samples * self.groups * ceil_div(size, chunk)

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Compute in float64, then round."""
        x, weight, bias = (array.astype(np.float64) for array in inputs)
        grouped = x.reshape(len(x), self.groups, -1)
        distance = grouped - grouped.mean(-1, keepdims=True)
        root = np.sqrt((distance * distance).mean(-1, keepdims=True) + self.epsilon)
        channels = (-1, *(1,) * (x.ndim - 2))
        y = (distance / root).reshape(x.shape) * weight.reshape(channels) + bias.reshape(channels)
        y = y / (1 + np.exp(-y)) if self.activation == "silu" else y
        return (y.astype(inputs[0].dtype),)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(), [(2, 32, 5, 3), (32,), (32,)]),
            Example(cls(groups=4, activation="silu"), [(2, 12, 7), (12,), (12,)]),
            Example(cls(activation="silu"), [(8, 320, 64, 64), (320,), (320,)], timed=True),
        ]
