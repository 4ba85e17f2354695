"""NonMaxSuppression: of boxes that overlap, the one with the highest score stays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from trtforge import CustomOp, Example, Launch, Shape, Tactic, ceil_div

Array = np.ndarray[Any, np.dtype[Any]]

HELD_BYTES = 256 * 2**20
"""What the rows of bits may take; images and classes that need more come one after the other."""


@dataclass(frozen=True)
class Suppression(CustomOp):
    """What upright and turned boxes have in common: order, comparison, choice."""

    inputs = (
        "boxes", "scores", "max_output_boxes_per_class: int64", "iou_threshold: float32",
        "score_threshold: float32",
    )  # fmt: skip
    outputs = ("selected: int64",)
    counted = ("selected",)
    dtypes = ("float32",)
    kernel = "non_max_suppression.cu.jinja"
    tactics: ClassVar = {"block": (1024, 512)}

    @abstractmethod
    def overlaps(self, box: Array, others: Array) -> Array:
        """Return intersection over union of ``box`` and ``others``; 0 where one is empty."""

    @staticmethod
    @abstractmethod
    def numbers(center: Array, size: Array, angle: Array) -> Array:
        """Return boxes as the op takes them; each array has a row per box."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return as many rows as there are scores, the most that can be."""
        images, classes, boxes = inputs[1]
        return ((images * classes * boxes, 3),)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> tuple[Launch, ...]:
        """Order the boxes, then compare and choose for as many classes as fit, then write."""
        images, classes, count = inputs[1]
        pairs, words, held = images * classes, ceil_div(count, 64), _held(inputs[1])

        def start(kernel: str, grid: int, block: int, first: int = 0, shared: int = 0) -> Launch:
            scalars = (pairs, max(classes, 1), count, first, held)
            return Launch(max(grid, 1), block, scalars, shared, kernel=kernel)

        some = [
            launch
            for first in range(0, pairs, held)
            for launch in (
                start("compare", held * words * ceil_div(words, 4), 256, first),
                start("choose", held, tactic["block"], first, 8 * words),
            )
        ]
        ranks = start("rank", pairs * max(words, 1), 256)
        return (ranks, *some, start("write", pairs, 256))

    def workspace(self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...]) -> int:
        """Rows of bits, then order, choice and counts of each image's classes."""
        images, classes, count = inputs[1]
        rows = 8 * _held(inputs[1]) * count * ceil_div(count, 64)
        return rows + 8 * images * classes * (count + 1)

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Go through the boxes by falling score, in float32 as ONNX Runtime does."""
        boxes, scores, most, threshold, score_threshold = inputs
        rows = [
            (image, of_class, box)
            for image in range(scores.shape[0])
            for of_class in range(scores.shape[1])
            for box in self._keep(
                boxes[image], scores[image, of_class], int(most.reshape(-1)[0]),
                threshold.reshape(-1)[0], score_threshold.reshape(-1)[0],
            )
        ]  # fmt: skip
        return (np.asarray(rows, np.int64).reshape(-1, 3),)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return odd and even sizes, and one worth timing."""
        return [cls._spread(70, 5), cls._spread(300, 20), cls._spread(20_000, 1000, timed=True)]

    @classmethod
    def _spread(cls, count: int, extent: float, *, timed: bool = False) -> Example:
        """Return an example with boxes, a twentieth of ``extent`` wide, all over it."""
        turns = np.arange(count)[:, None] * [1.618034, 2.236068]
        numbers = cls.numbers(turns % 1 * extent, np.full((count, 2), extent / 20), turns[:, :1])
        scores = (np.arange(count) * 1.732051 % 1).reshape(1, 1, -1)
        limits = [np.array([count]), np.array([0.3]), np.array([0.01])]
        return Example(cls(), [numbers[None], scores, *limits], timed=timed)

    def _keep(self, boxes: Array, scores: Array, most: int, limit: Any, lowest: Any) -> list[int]:
        order = [int(i) for i in np.argsort(-scores, kind="stable") if scores[i] > lowest]
        kept: list[int] = []
        while order and len(kept) < most:
            best, *order = order
            kept.append(best)
            shares = self.overlaps(boxes[best], boxes[order])
            order = [box for box, share in zip(order, shares, strict=True) if not share > limit]
        return kept


@dataclass(frozen=True)
class NonMaxSuppression(Suppression):
    """ONNX's NonMaxSuppression: rows of image, class and box, by image, class and falling score.

    ``boxes`` is [images, boxes, 4], ``scores`` [images, classes, boxes]; the other inputs have one
    element. Of equal scores the box with the lower index comes first.
    """

    name = "trtforge::NonMaxSuppression"
    since = 11
    function = """
        selected = NonMaxSuppression <center_point_box = {{ center_point_box | int }}> (
            boxes, scores, max_output_boxes_per_class, iou_threshold, score_threshold)
    """

    center_point_box: bool = False
    """Boxes are [x, y, width, height] around their centre instead of two corners [y, x, y, x]."""

    @staticmethod
    def numbers(center: Array, size: Array, angle: Array) -> Array:
        """Return the corners, y first."""
        del angle
        return np.concatenate(((center - size / 2)[:, ::-1], (center + size / 2)[:, ::-1]), 1)

    def overlaps(self, box: Array, others: Array) -> Array:
        """Return intersection over union of ``box`` and ``others``; 0 where one is empty."""
        low, high = self._corners(box[None])
        lows, highs = self._corners(others)
        sizes = np.minimum(high, highs) - np.maximum(low, lows)
        common = np.where((sizes > 0).all(-1), sizes.prod(-1), 0)
        area, areas = (high - low).prod(-1), (highs - lows).prod(-1)
        return share_of(common, area, areas)

    def _corners(self, boxes: Array) -> tuple[Array, Array]:
        if self.center_point_box:
            half = boxes[:, 2:] / 2
            return boxes[:, :2] - half, boxes[:, :2] + half
        return np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])


def share_of(common: Array, area: Any, areas: Array) -> Array:
    """Return common area over that of both; 0 where there is none."""
    some = (common > 0) & (area > 0) & (areas > 0)
    return np.where(some, common / np.where(some, area + areas - common, 1), 0)


def _held(scores: Shape) -> int:
    """Return for how many classes of images the rows of bits fit at the same time."""
    images, classes, count = scores
    row_bytes = 8 * count * ceil_div(count, 64)
    return max(1, min(images * classes, HELD_BYTES // max(row_bytes, 1)))
