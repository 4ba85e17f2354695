"""GridSample: values of an image or a volume at places that a grid names, as ONNX defines it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from trtforge import CustomOp, Example, Launch, Shape, Tactic, ceil_div

Array = np.ndarray[Any, np.dtype[Any]]

CHANNELS = 8
"""kChannels in ``trtforge/cuda/channels_last.cuh``: what a thread samples at once."""
TILE = 64
THREADS = 256


@dataclass(frozen=True)
class GridSample(CustomOp):
    """``y[n, c, h, w] = x[n, c]`` at ``grid[n, h, w]``, x first, both between -1 and 1."""

    name = "trtforge::GridSample"
    inputs = ("x", "grid")
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "grid_sample.cu.jinja"
    since = 16
    function = """
        {% set old = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"} %}
        wide = Cast <to = 1> (x)
        places = Cast <to = 1> (grid)
        sampled = GridSample <mode = "{{ mode if opset >= 20 else old[mode] }}",
            padding_mode = "{{ padding_mode }}", align_corners = {{ align_corners | int }}
        > (wide, places)
        y = CastLike (sampled, x)
    """

    mode: Literal["linear", "nearest", "cubic"] = "linear"
    """How values between the pixels are found."""
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros"
    """What lies outside."""
    align_corners: bool = False
    """Whether -1 and 1 are the centres of the outermost pixels instead of their edges."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the channels of ``x`` at the places of the grid."""
        x, grid = inputs
        return ((*x[:2], *grid[1:-1]),)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> tuple[Launch, ...]:
        """Turn ``x`` to channels last, then sample."""
        samples, channels, *space = inputs[0]
        points = prod(inputs[1][1:-1])
        needed = ceil_div(channels, CHANNELS)
        packs = next(n for n in (1, 2, 4, 8) if n >= min(needed, 8))
        scalars = (samples, channels, *space, points, packs)
        tiles = ceil_div(points, 2 * THREADS // packs) * ceil_div(needed, packs)
        return (
            turn_launch(samples, channels, prod(space), scalars),
            Launch(max(1, samples * tiles), THREADS, scalars, kernel="sample"),
        )

    def workspace(self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...]) -> int:
        """``x`` with its channels last, padded, in float32 at most."""
        samples, channels, *space = inputs[0]
        return 4 * samples * prod(space) * ceil_div(channels, CHANNELS) * CHANNELS

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Find the places in float32, as ONNX Runtime does, and compute in float64."""
        x, grid = inputs
        places = grid.astype(np.float32)[..., ::-1]  # as the axes of x
        axes = [
            self._neighbours(places[..., axis], length) for axis, length in enumerate(x.shape[2:])
        ]
        flat = x.astype(np.float64).reshape(*x.shape[:2], -1)
        y = np.zeros((*x.shape[:2], *grid.shape[1:-1]))
        for taps in itertools.product(*axes):
            index = np.zeros(grid.shape[:-1], np.int64)
            weight, inside = np.ones(index.shape), np.ones(index.shape, np.bool_)
            for (at, share), length in zip(taps, x.shape[2:], strict=True):
                index, weight = index * length + np.maximum(at, 0), weight * share
                inside = inside & (at >= 0)
            rows = np.broadcast_to(index.reshape(len(x), 1, -1), (*x.shape[:2], index[0].size))
            term = np.take_along_axis(flat, rows, 2).reshape(y.shape) * weight[:, None]
            y += np.where(inside[:, None], term, 0)
        return (y.astype(x.dtype),)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(), [(2, 5, 4, 6), (2, 3, 7, 2)]),
            Example(cls("cubic", "reflection"), [(1, 3, 8, 8), (1, 30, 40, 2)]),
            Example(cls(), [(8, 64, 256, 256), spread(8, 256, 256, 2)], timed=True),
        ]

    def _neighbours(self, places: Array, length: int) -> list[tuple[Array, Array]]:
        """Return index and weight of each neighbour along one axis; the index -1 adds nothing."""
        low, high = (0.0, length - 1.0) if self.align_corners else (-0.5, length - 0.5)
        one, two = np.float32(1), np.float32(2)
        if self.align_corners:
            v = (places + one) / two * np.float32(length - 1)
        else:
            v = ((places + one) * np.float32(length) - one) / two
        v = np.rint(v) if self.mode == "nearest" else v
        if self.padding_mode == "border" and self.mode != "cubic":  # as ONNX Runtime and PyTorch
            v = np.where((v < low) | (v > high), np.clip(v, 0, length - 1), v)
        if self.padding_mode == "reflection":
            v = _reflect(v, low, high)
        base = np.floor(v)
        weights, start = _weights(self.mode, (v - base).astype(np.float64))
        taps = []
        for tap, share in enumerate(weights):
            at = base + (tap + start)
            inside = (at >= 0) & (at < length)
            if self.padding_mode == "reflection":
                at = np.trunc(_reflect(at, low, high))
            at = np.clip(at, 0, length - 1).astype(np.int64)
            taps.append((np.where(inside, at, -1) if self.padding_mode == "zeros" else at, share))
        return taps


@dataclass(frozen=True)
class GridSample3D(GridSample):
    """The same for volumes: ``x`` is [N, C, D, H, W]; cubic is not there, as in ONNX Runtime."""

    name = "trtforge::GridSample3D"
    kernel = "grid_sample_3d.cu.jinja"
    since = 20

    mode: Literal["linear", "nearest"] = "linear"
    """How values between the voxels are found."""

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [
            Example(cls(), [(2, 5, 4, 6, 3), (2, 3, 7, 2, 3)]),
            Example(cls("nearest", "border"), [(1, 70, 1, 9, 4), (1, 5, 5, 20, 3)]),
            Example(cls(), [(2, 32, 32, 128, 128), spread(2, 32, 128, 128, 3)], timed=True),
        ]


def spread(*shape: int) -> Array:
    """Return places between -1 and 1 that look random (multiples of the golden ratio)."""
    return (np.arange(prod(shape)) * 1.618034 % 2 - 1).reshape(shape)


def turn_launch(
    samples: int, channels: int, space: int, scalars: tuple[int, ...], segments: int = 1
) -> Launch:
    """Launch the kernel ``turn``, which calls ``to_channels_last``."""
    tiles = ceil_div(space, TILE) * ceil_div(channels, TILE) * samples * segments
    return Launch(max(1, tiles), THREADS, scalars, kernel="turn")


def _reflect(v: Array, low: float, high: float) -> Array:
    span = np.float32(high - low)
    if span <= 0:
        return np.full_like(v, low)
    distance = np.where(v < low, np.float32(low) - v, v - np.float32(high))
    times = np.trunc(distance / span)
    rest = distance - times * span
    up = (v < low) == (times % 2 == 0)
    inside = (v >= low) & (v <= high)
    return np.where(inside, v, np.where(up, np.float32(low) + rest, np.float32(high) - rest))


def _weights(mode: str, f: Array) -> tuple[list[Array], int]:
    """Return the weights of the neighbours, and where the first one lies."""
    if mode == "nearest":
        return [np.ones_like(f)], 0
    if mode == "linear":
        return [1 - f, f], 0
    a = -0.75  # Keys (1981); PyTorch's and ONNX's choice

    def near(d: Array) -> Array:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Array) -> Array:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [far(f + 1), near(f), near(1 - f), far(2 - f)], -1
