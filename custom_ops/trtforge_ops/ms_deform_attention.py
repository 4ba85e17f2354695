"""MultiScaleDeformableAttention: attention to a few places of feature maps (Zhu et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from trtforge import CustomOp, Example, Launch, Shape, Tactic, ceil_div

Array = np.ndarray[Any, np.dtype[Any]]

PACK = 8  # kPack in the kernel
LEVEL_BYTES = 12  # sizeof(Level)
SAMPLES, SAMPLE_BYTES = 1024, 32  # kSamples and sizeof(Corners)
"""What a block holds of samples at once: as much shared memory as every GPU gives a block."""


@dataclass(frozen=True)
class MultiScaleDeformableAttention(CustomOp):
    """The weighted sum of samples, for each query and head.

    ``value`` is [images, pixels of all levels, heads, size], ``spatial_shapes`` [levels, 2] (height
    and width), ``locations`` [images, queries, heads, levels, points, 2] (x and y from 0 to 1),
    ``weights`` [images, queries, heads, levels, points], ``y`` [images, queries, heads * size].
    """

    name = "trtforge::MultiScaleDeformableAttention"
    inputs = ("value", "spatial_shapes: int64", "locations", "weights")
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "ms_deform_attention.cu.jinja"
    tactics: ClassVar = {
        "block": (128, 256, 512, 1024), "at_once": (4, 8), "unroll": (1, 2), "rounds": (4, 1),
    }  # fmt: skip
    since = 16
    function = """
        wide = Cast <to = 1> (value)
        wide_locations = Cast <to = 1> (locations)
        wide_weights = Cast <to = 1> (weights)
        zero = Constant <value_ints = [0]> ()
        one = Constant <value_ints = [1]> ()
        two = Constant <value_ints = [2]> ()
        three = Constant <value_ints = [3]> ()
        rest = Constant <value_ints = [-1]> ()
        double = Constant <value_float = 2.0> ()
        unit = Constant <value_float = 1.0> ()
        shape = Shape (value)
        images = Slice (shape, zero, one)
        heads = Slice (shape, two, three)
        four = Constant <value_ints = [4]> ()
        size = Slice (shape, three, four)
        twice = Mul (wide_locations, double)
        places = Sub (twice, unit)
        by_head = Transpose <perm = [0, 2, 3, 1, 4, 5]> (places)
        share = Transpose <perm = [0, 2, 3, 1, 4]> (wide_weights)
        by_channel = Transpose <perm = [0, 2, 3, 1]> (wide)
        merged = Mul (images, heads)
        end_0 = Identity (zero)
        {% for level in range(levels) %}
        at_{{ level }} = Constant <value_ints = [{{ level }}]> ()
        size_{{ level }} = Gather (spatial_shapes, at_{{ level }})
        pixels_{{ level }} = ReduceProd <keepdims = 0> (size_{{ level }})
        count_{{ level }} = Reshape (pixels_{{ level }}, one)
        end_{{ level + 1 }} = Add (end_{{ level }}, count_{{ level }})
        part_{{ level }} = Slice (by_channel, end_{{ level }}, end_{{ level + 1 }}, three)
        plane_{{ level }} = Reshape (size_{{ level }}, two)
        map_shape_{{ level }} = Concat <axis = 0> (merged, size, plane_{{ level }})
        map_{{ level }} = Reshape (part_{{ level }}, map_shape_{{ level }})
        index_{{ level }} = Constant <value_int = {{ level }}> ()
        places_{{ level }} = Gather <axis = 2> (by_head, index_{{ level }})
        places_shape_{{ level }} = Shape <start = 2> (places_{{ level }})
        grid_shape_{{ level }} = Concat <axis = 0> (merged, places_shape_{{ level }})
        grid_{{ level }} = Reshape (places_{{ level }}, grid_shape_{{ level }})
        samples_{{ level }} = GridSample <
            mode = "{{ "linear" if opset >= 20 else "bilinear" }}", padding_mode = "zeros"
        > (map_{{ level }}, grid_{{ level }})
        share_{{ level }} = Gather <axis = 2> (share, index_{{ level }})
        share_shape_{{ level }} = Shape <start = 2> (share_{{ level }})
        flat_{{ level }} = Concat <axis = 0> (merged, one, share_shape_{{ level }})
        factor_{{ level }} = Reshape (share_{{ level }}, flat_{{ level }})
        weighted_{{ level }} = Mul (samples_{{ level }}, factor_{{ level }})
        sum_{{ level }} = ReduceSum <keepdims = 0> (weighted_{{ level }}, three)
        {% endfor %}
        total = Sum ({% for level in range(levels) %}{{ ", " if level }}sum_{{ level }}{% endfor %})
        apart = Concat <axis = 0> (images, heads, size, rest)
        split = Reshape (total, apart)
        back = Transpose <perm = [0, 3, 1, 2]> (split)
        joined = Mul (heads, size)
        out_shape = Concat <axis = 0> (images, rest, joined)
        out = Reshape (back, out_shape)
        y = CastLike (out, value)
    """

    levels: int = 4
    """How many feature maps there are; the ONNX function needs it written out."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return [images, queries, heads * size]."""
        images, _, heads, size = inputs[0]
        return ((images, inputs[2][1], heads * size),)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> Launch:
        """Some queries of one head of one image per block."""
        images, pixels, heads, size = inputs[0]
        _, queries, _, levels, points, _ = inputs[2]
        lanes = max(1, min(ceil_div(size, PACK), tactic["block"]))
        held = min(tactic["block"] // lanes, SAMPLES // tactic["at_once"])
        of_head = ceil_div(size, PACK * lanes) * ceil_div(queries, held * tactic["rounds"])
        scalars = (images, pixels, heads, size, queries, levels, points)
        shared = SAMPLE_BYTES * tactic["at_once"] * held + LEVEL_BYTES * levels
        return Launch(max(1, images * heads * of_head), tactic["block"], scalars, shared)

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Compute in float64, then round."""
        value, sizes, locations, weights = inputs
        wide = np.moveaxis(value.astype(np.float64), 2, 1)  # [images, heads, pixels, size]
        images, heads, _, size = wide.shape
        y = np.zeros((images, heads, locations.shape[1], size))
        start = 0
        for level, (height, width) in enumerate(sizes):
            x = locations[:, :, :, level, :, 0].astype(np.float32) * np.float32(width) - 0.5
            row = locations[:, :, :, level, :, 1].astype(np.float32) * np.float32(height) - 0.5
            share = weights[:, :, :, level].astype(np.float64)
            part = wide[:, :, start : start + height * width]
            for across, down in ((0, 0), (1, 0), (0, 1), (1, 1)):
                at_x, at_y = np.floor(x) + across, np.floor(row) + down
                inside = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
                factor = (1 - abs(x - at_x)) * (1 - abs(row - at_y)) * share
                index = np.where(inside, at_y * width + at_x, 0).astype(np.int64)
                for point in range(index.shape[-1]):
                    rows, weight, there = (
                        np.moveaxis(each[..., point], 2, 1)[..., None]
                        for each in (index, factor, inside)
                    )
                    y += np.where(there, np.take_along_axis(part, rows, 2) * weight, 0)
            start += height * width
        return (np.moveaxis(y, 1, 2).reshape(images, -1, heads * size).astype(value.dtype),)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""

        def inputs(maps: Sequence[Shape], queries: int, heads: int, size: int) -> list[Any]:
            sampled = 1, queries, heads, len(maps), 4
            places = (np.arange(2 * prod(sampled)) * 1.618034 % 1).reshape(*sampled, 2)
            return [(1, sum(map(prod, maps)), heads, size), np.array(maps), places, sampled]

        detector = (100, 134), (50, 67), (25, 34), (13, 17)
        return [
            Example(cls(levels=3), inputs(((5, 7), (3, 4), (1, 2)), 9, 2, 16)),
            Example(cls(levels=2), inputs(((3, 3), (2, 1)), 5, 3, 5)),
            Example(cls(), inputs(detector, 4000, 8, 32), timed=True),
        ]
