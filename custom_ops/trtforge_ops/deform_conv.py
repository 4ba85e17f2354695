"""DeformConv: deformable convolution v2 (Zhu et al., 2019), as ONNX defines it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm, prod
from typing import Any, ClassVar

import numpy as np

from trtforge import CustomOp, Example, Launch, Shape, Tactic, ceil_div
from trtforge_ops.grid_sample import CHANNELS, turn_launch

Array = np.ndarray[Any, np.dtype[Any]]

OUTPUTS, DEPTH, WARPS, TILE_WIDTH = 64, 32, 4, 16
"""As in the kernel: kOutputs and so on."""
PAIR, PLACE = 16, 32
"""Bytes of two weights, split for tensor cores, and of a place in shared memory."""


@dataclass(frozen=True)
class DeformConv(CustomOp):
    """A convolution whose samples are moved by ``offset`` and multiplied by ``mask``.

    ``x`` is [N, C, H, W], ``weight`` [M, C / groups, kH, kW], ``mask`` [N, offset_groups * kH * kW,
    OH, OW], ``offset`` the same with twice as many (y before x), ``bias`` [M]. Tensor
    cores multiply in three TF32 products, nearly as exact as float32; sums that are not finite are
    computed again in float32, slowly.
    """

    name = "trtforge::DeformConv"
    inputs = ("x", "weight", "offset", "mask", "bias")
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "deform_conv.cu.jinja"
    tactics: ClassVar = {"strips": (2, 1), "resident": (2, 3)}
    since = 19
    function = """
        wide = Cast <to = 1> (x)
        wide_weight = Cast <to = 1> (weight)
        wide_offset = Cast <to = 1> (offset)
        wide_mask = Cast <to = 1> (mask)
        wide_bias = Cast <to = 1> (bias)
        sum = DeformConv <
            strides = [{{ stride_height }}, {{ stride_width }}],
            pads = [{{ pad_top }}, {{ pad_left }}, {{ pad_bottom }}, {{ pad_right }}],
            dilations = [{{ dilation_height }}, {{ dilation_width }}],
            group = {{ groups }}, offset_group = {{ offset_groups }}
        > (wide, wide_weight, wide_offset, wide_bias, wide_mask)
        y = CastLike (sum, x)
    """

    groups: int = 1
    """Groups of channels that are convolved by themselves."""
    offset_groups: int = 1
    """Groups of channels that share offsets and mask."""
    stride_height: int = 1
    """Steps of the output down the image."""
    stride_width: int = 1
    """Steps of the output across the image."""
    pad_top: int = 0
    """Rows of zeros above."""
    pad_left: int = 0
    """Columns of zeros on the left."""
    pad_bottom: int = 0
    """Rows of zeros below."""
    pad_right: int = 0
    """Columns of zeros on the right."""
    dilation_height: int = 1
    """Distance of the kernel's rows."""
    dilation_width: int = 1
    """Distance of the kernel's columns."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return [N, M, OH, OW]."""
        return ((inputs[0][0], inputs[1][0], *inputs[2][2:]),)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> tuple[Launch, ...]:
        """Turn ``x`` and arrange the weights, then convolve."""
        segments, channels = self._segments(inputs[0][1])
        samples, _, height, width = inputs[0]
        all_outputs, _, kernel_height, kernel_width = inputs[1]
        scalars = (
            samples, segments, channels, height, width,
            segments // self.groups, segments // self.offset_groups,
            kernel_height, kernel_width, *inputs[2][2:], all_outputs, self._pairs(inputs),
        )  # fmt: skip
        tile_height = WARPS * tactic["strips"]
        rows, columns = inputs[2][2:]
        tiles = ceil_div(rows, tile_height) * ceil_div(columns, TILE_WIDTH)
        of_group = ceil_div(all_outputs // self.groups, OUTPUTS)
        shared = OUTPUTS * DEPTH * PAIR + tile_height * TILE_WIDTH * PLACE
        turn = turn_launch(samples, channels, height * width, scalars, segments)
        weights = min(1024, ceil_div(scalars[-1], 256))
        return (
            replace(turn, grid=max(turn.grid, weights)),
            Launch(
                grid=max(1, samples * self.groups * of_group * tiles),
                block=32 * WARPS,
                scalars=scalars,
                shared_bytes=shared,
                kernel="convolve",
            ),
        )

    def workspace(self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...]) -> int:
        """``x`` with its channels last, in float32 at most, and the split weights, both padded."""
        samples, channels, height, width = inputs[0]
        segments, size = self._segments(channels)
        padded = segments * ceil_div(size, CHANNELS) * CHANNELS
        return 4 * samples * height * width * padded + PAIR * self._pairs(inputs)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(
                cls(pad_top=1, pad_left=1, pad_bottom=1, pad_right=1),
                [(2, 4, 6, 7), (5, 4, 3, 3), (2, 18, 6, 7), (2, 9, 6, 7), (5,)],
                atol=1e-4,  # sums of 36 products reach 300, whose float32 has steps of 3e-5
            ),
            Example(
                cls(pad_top=1, pad_left=1, pad_bottom=1, pad_right=1),
                [(8, 64, 128, 128), (64, 64, 3, 3), (8, 18, 128, 128), (8, 9, 128, 128), (64,)],
                timed=True,
            ),
        ]

    def _segments(self, channels: int) -> tuple[int, int]:
        """Return how many runs of channels share group and offset group, and their length."""
        segments = lcm(self.groups, self.offset_groups)
        return segments, channels // segments

    def _pairs(self, inputs: tuple[Shape, ...]) -> int:
        """Return how many pairs of weights there are, padded."""
        segments, size = self._segments(inputs[0][1])
        outputs = ceil_div(inputs[1][0] // self.groups, OUTPUTS) * OUTPUTS
        return segments * ceil_div(size, DEPTH) * DEPTH * prod(inputs[1][2:]) * outputs // 2

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Find the places in float32, as ONNX Runtime does, and compute in float64."""
        x, weight, offset, mask, bias = inputs
        samples, channels, height, width = x.shape
        kernel_height, kernel_width = weight.shape[2:]
        taps, (rows, columns) = kernel_height * kernel_width, offset.shape[2:]
        moved = offset.astype(np.float32).reshape(
            samples, self.offset_groups, taps, 2, rows, columns
        )
        shares = mask.astype(np.float64).reshape(samples, self.offset_groups, taps, rows, columns)
        tap_y, tap_x = np.divmod(np.arange(taps), kernel_width)
        row = np.arange(rows)[:, None] * self.stride_height - self.pad_top
        column = np.arange(columns) * self.stride_width - self.pad_left
        y = moved[:, :, :, 0] + (row + (tap_y * self.dilation_height)[:, None, None]).astype(
            np.float32
        )
        across = (column + (tap_x * self.dilation_width)[:, None, None]).astype(np.float32)
        wide = x.astype(np.float64).reshape(samples, self.offset_groups, -1, height * width)
        taken = _bilinear(wide, y, moved[:, :, :, 1] + across, height, width) * shares[:, :, None]
        taken = taken.reshape(samples, self.groups, channels // self.groups, taps, rows, columns)
        kernel = weight.astype(np.float64).reshape(self.groups, -1, channels // self.groups, taps)
        result = np.einsum("ngctij,gmct->ngmij", taken, kernel).reshape(samples, -1, rows, columns)
        return ((result + bias.astype(np.float64)[:, None, None]).astype(x.dtype),)


def _bilinear(x: Array, y: Array, across: Array, height: int, width: int) -> Array:
    """Return samples of x [N, G, C, H * W] at places [N, G, taps, rows, columns]."""
    result = np.zeros((*x.shape[:3], *y.shape[2:]))
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = np.floor(y) + down, np.floor(across) + right
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        share = ((1 - abs(y - row)) * (1 - abs(across - column))).astype(np.float64)[:, :, None]
        index = np.where(inside, row * width + column, 0).astype(np.int64)
        flat = index.reshape(*index.shape[:2], 1, -1)
        found = np.take_along_axis(x, np.broadcast_to(flat, (*x.shape[:3], flat.shape[-1])), 3)
        result += np.where(inside[:, :, None], found.reshape(result.shape) * share, 0)
    return result
