"""RoiAlign: features of regions by bilinear samples (He et al., 2017), as ONNX defines it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir

from trtforge import CustomOp, Example, Launch, Shape, Substitute, Tactic

Array = np.ndarray[Any, np.dtype[Any]]
Neighbours = tuple[Array, Array]


@dataclass(frozen=True)
class RoiAlign(CustomOp):
    """``y[r, c]``: bins of region r (x1, y1, x2, y2) of the image ``batch_indices[r]``."""

    name = "trtforge::RoiAlign"
    inputs = ("x", "rois", "batch_indices: int64")
    outputs = ("y",)
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "roi_align.cu.jinja"
    tactics: ClassVar = {"block": (512, 256, 1024), "parts": (2, 4, 1), "unroll": (2, 1, 4)}
    since = 16
    until = 20  # ONNX Runtime 1.32 has no kernel for the RoiAlign of opset 22
    function = """
        wide = Cast <to = 1> (x)
        wide_rois = Cast <to = 1> (rois)
        pooled = RoiAlign <mode = "{{ mode }}", output_height = {{ output_height }},
            output_width = {{ output_width }}, sampling_ratio = {{ sampling_ratio }},
            spatial_scale = {{ spatial_scale }},
            coordinate_transformation_mode = "{{ coordinate_transformation_mode }}"
        > (wide, wide_rois, batch_indices)
        y = CastLike (pooled, x)
    """

    mode: Literal["avg", "max"] = "avg"
    """``max`` is of the weighted neighbours, as ONNX defines it, not of the samples."""
    output_height: int = 1
    """Bins of a region from top to bottom."""
    output_width: int = 1
    """Bins of a region from left to right."""
    sampling_ratio: int = 0
    """Samples of a bin in each direction; 0: as many as it has pixels."""
    spatial_scale: float = 1.0
    """What the coordinates of regions are multiplied by."""
    coordinate_transformation_mode: Literal["half_pixel", "output_half_pixel"] = "half_pixel"
    """``output_half_pixel`` is without the shift by half a pixel, as before opset 16."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return the channels of ``x`` for each region and bin."""
        return ((inputs[1][0], inputs[0][1], self.output_height, self.output_width),)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> Launch:
        """One channel of one image per block, or parts of its regions."""
        samples, channels, height, width = inputs[0]
        parts, regions = tactic["parts"], inputs[1][0]
        scalars = (samples, channels, height, width, regions, parts)
        return Launch(max(1, samples * channels * parts), tactic["block"], scalars)

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Find the samples in float32, as ONNX Runtime does, and compute in float64."""
        x, rois, images = inputs
        y = np.zeros((len(rois), x.shape[1], self.output_height, self.output_width))
        for out, roi, image in zip(y, rois.astype(np.float32), images, strict=True):
            down = self._neighbours(roi[1], roi[3], self.output_height, x.shape[2])
            across = self._neighbours(roi[0], roi[2], self.output_width, x.shape[3])
            if down[0].shape[1] and across[0].shape[1]:
                out[...] = self._pool(x[image].astype(np.float64), down, across)
        return (y.astype(x.dtype),)

    @classmethod
    def substitute(cls, node: ir.Node) -> Substitute | str | None:
        """Stand for ONNX's RoiAlign, with its attributes."""
        if node.domain or node.op_type != "RoiAlign":
            return None
        given = {name: attribute.value for name, attribute in node.attributes.items()}
        return Substitute(cls(**given), (0, 1, 2))

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        some = np.array([[0, 0, 6, 5], [1, 2, 9, 20], [-3, -2, 4, 4]])
        corners = np.arange(2000).reshape(-1, 2) * 1.618034 % 1 * 200
        sizes = 20 + np.arange(2000).reshape(-1, 2) * 2.236068 % 1 * 200
        many = [np.concatenate((corners, corners + sizes), 1), np.arange(1000) % 2]
        return [
            Example(cls("avg", 3, 2), [(2, 3, 8, 9), some, np.array([0, 1, 0])]),
            Example(cls("max", 3, 2, 2), [(2, 3, 8, 9), some, np.array([0, 1, 0])]),
            Example(cls("avg", 7, 7, 2, 0.5), [(2, 256, 200, 304), *many], timed=True),
        ]

    def _pool(self, image: Array, down: Neighbours, across: Neighbours) -> Array:
        values = image[:, down[0][:, :, None, None], across[0][None, None]]
        weighted = values * down[1][:, :, None, None] * across[1][None, None]
        samples = down[0].shape[1] * across[0].shape[1] / 4
        pooled: Array = (
            weighted.max((2, 4)) if self.mode == "max" else weighted.sum((2, 4)) / samples
        )
        return pooled

    def _neighbours(self, first: Any, last: Any, bins: int, length: int) -> Neighbours:
        """Return the indices and weights of each bin's neighbours along one axis: [bins, 2 n]."""
        scale, half = np.float32(self.spatial_scale), np.float32(0.5)
        shift = half if self.coordinate_transformation_mode == "half_pixel" else np.float32(0)
        start = first * scale - shift
        size = last * scale - shift - start
        if not shift:
            size = max(size, np.float32(1))
        bin_size = size / np.float32(bins)
        samples = self.sampling_ratio or max(0, ceil(bin_size))
        steps = (np.arange(samples, dtype=np.float32) + half) * bin_size / np.float32(samples or 1)
        v = start + np.arange(bins, dtype=np.float32)[:, None] * bin_size + steps
        inside = (v >= -1) & (v <= length)
        v = np.clip(v, 0, length - 1)
        low = np.floor(v).astype(np.int64)
        far = np.where(inside, v - low, 0).astype(np.float64)
        near = np.where(inside, 1 - (v - low), 0).astype(np.float64)
        at = np.stack((low, np.minimum(low + 1, length - 1)), -1)
        return at.reshape(bins, -1), np.stack((near, far), -1).reshape(bins, -1)
