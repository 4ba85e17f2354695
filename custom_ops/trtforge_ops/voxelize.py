"""Voxelize: the points of a cloud gathered by cells; how many have points depends on the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from trtforge import CustomOp, Example, Launch, Shape, Tactic, ceil_div
from trtforge_ops.select import BLOCK, selection_bytes, spans

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Voxelize(CustomOp):
    """The points of each cell of a grid, as PointPillars (Lang et al., 2019) takes them.

    ``points`` is [count, features], the first three of them x, y and z. ``voxels`` [n, most_points,
    features] has the points of each cell that has any, in their order, zeros behind them. ``cells``
    [n, 3] is where the cell lies (z, y, x), ``counts`` [n] how many points it has, at most
    ``most_points``. Cells come in the order of z, then y, then x, ``most_voxels`` of them at most.
    Points outside the grid belong to none. With one cell along z it gives pillars.
    """

    name = "trtforge::Voxelize"
    inputs = ("points",)
    outputs = ("voxels", "cells: int64", "counts: int64")
    counted = ("voxels", "cells", "counts")
    dtypes = ("float32", "float16", "bfloat16")
    kernel = "voxelize.cu.jinja"
    function = """
        start = Constant <value_ints = [0]> ()
        one = Constant <value_ints = [1]> ()
        three = Constant <value_ints = [3]> ()
        place = Slice (points, start, three, one)
        wide = Cast <to = 1> (place)
        low = Constant <value_floats = [{{ low | join(", ") }}]> ()
        size = Constant <value_floats = [{{ size | join(", ") }}]> ()
        shifted = Sub (wide, low)
        ratio = Div (shifted, size)
        cell = Floor (ratio)
        grid = Constant <value_ints = [{{ grid | join(", ") }}]> ()
        end = Cast <to = 1> (grid)
        zero = Constant <value_float = 0.0> ()
        above = GreaterOrEqual (cell, zero)
        below = Less (cell, end)
        both = And (above, below)
        held = Cast <to = 1> (both)
        {% if opset >= 18 %}
        least = ReduceMin <keepdims = 0> (held, one)
        {% else %}
        least = ReduceMin <axes = [1], keepdims = 0> (held)
        {% endif %}
        inside = Cast <to = 9> (least)
        inside_at = NonZero (inside)
        inside_places = Squeeze (inside_at, start)
        cells_inside = Gather (cell, inside_places)
        points_inside = Gather (points, inside_places)
        whole = Cast <to = 7> (cells_inside)
        steps = Constant <value_ints = [1, {{ grid[0] }}, {{ grid[0] * grid[1] }}]> ()
        parts = Mul (whole, steps)
        number = ReduceSum <keepdims = 0> (parts, one)
        found, first, voxel, lengths = Unique (number)
        nothing = Constant <value_int = 0> ()
        single = Constant <value_int = 1> ()
        total = Shape (number)
        total_scalar = Squeeze (total)
        indices = Range (nothing, total_scalar, single)
        long_rows = Mul (voxel, total)
        keys = Add (long_rows, indices)
        sorted_keys, order = TopK <largest = 0> (keys, total)
        in_order = Gather (voxel, order)
        starts = CumSum <exclusive = 1> (lengths, nothing)
        start_of_each = Gather (starts, in_order)
        rank = Sub (indices, start_of_each)
        most_points = Constant <value_ints = [{{ most_points }}]> ()
        most_voxels = Constant <value_ints = [{{ most_voxels }}]> ()
        in_voxel = Less (rank, most_points)
        in_output = Less (in_order, most_voxels)
        fits = And (in_voxel, in_output)
        voxel_column = Unsqueeze (in_order, one)
        rank_column = Unsqueeze (rank, one)
        pairs = Concat <axis = 1> (voxel_column, rank_column)
        fits_at = NonZero (fits)
        fits_places = Squeeze (fits_at, start)
        targets = Gather (pairs, fits_places)
        points_in_order = Gather (points_inside, order)
        values = Gather (points_in_order, fits_places)
        found_count = Shape (found)
        count = Min (found_count, most_voxels)
        shape = Shape (points)
        two = Constant <value_ints = [2]> ()
        features = Slice (shape, one, two)
        full = Concat <axis = 0> (count, most_points, features)
        zero_t = CastLike (zero, points)
        empty = Expand (zero_t, full)
        voxels = ScatterND (empty, targets, values)
        kept = Slice (found, start, count)
        row = Constant <value_int = {{ grid[0] }}> ()
        rows = Constant <value_int = {{ grid[1] }}> ()
        x = Mod (kept, row)
        line = Div (kept, row)
        y = Mod (line, rows)
        z = Div (line, rows)
        x_column = Unsqueeze (x, one)
        y_column = Unsqueeze (y, one)
        z_column = Unsqueeze (z, one)
        cells = Concat <axis = 1> (z_column, y_column, x_column)
        all_counts = Slice (lengths, start, count)
        counts = Min (all_counts, most_points)
    """

    low: tuple[float, ...] = (0.0, -39.68, -3.0)
    """The smallest x, y and z of the grid. The defaults are PointPillars' for KITTI."""
    size: tuple[float, ...] = (0.16, 0.16, 4.0)
    """The lengths of a cell."""
    grid: tuple[int, ...] = (432, 496, 1)
    """How many cells there are along x, y and z."""
    most_points: int = 32
    """Points of a cell that are kept: the first ones."""
    most_voxels: int = 40_000
    """Cells that are kept: the first ones."""

    def shapes(self, *inputs: Shape) -> tuple[Shape, ...]:
        """Return room for a voxel per point, as far as so many are kept."""
        count, features = inputs[0]
        most = min(count, self.most_voxels)
        return (most, self.most_points, features), (most, 3), (most,)

    def launch(
        self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], tactic: Tactic
    ) -> tuple[Launch, ...]:
        """Chain the points of each cell, number the cells that have any, write their points."""
        count, features = inputs[0]
        cells = prod(self.grid)
        words, blocks = spans(cells)
        scalars = (count, features, cells, words, blocks)
        of_cells, of_points = ceil_div(cells, BLOCK), max(1, ceil_div(count, BLOCK))
        cleared = max(1, ceil_div(prod(outputs[0]), BLOCK))
        return (
            Launch(of_cells, BLOCK, scalars, kernel="start"),
            Launch(of_points, BLOCK, scalars, kernel="chain"),
            Launch(blocks, BLOCK, scalars, kernel="mark"),
            Launch(blocks, BLOCK, scalars, kernel="cells"),
            Launch(cleared, BLOCK, scalars, kernel="clear"),
            Launch(of_points, BLOCK, scalars, kernel="place"),
        )

    def workspace(self, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...]) -> int:
        """A chain and a number for each cell, a link for each point, bits and counts."""
        cells = prod(self.grid)
        return 4 * (2 * cells + inputs[0][0]) + selection_bytes(cells)

    def reference(self, *inputs: Array) -> tuple[Array, ...]:
        """Divide in float32, as the function and the kernel do, then sort by cells."""
        (points,) = inputs
        place = points[:, :3].astype(np.float32)
        low, size = (np.array(values, np.float32) for values in (self.low, self.size))
        cell = np.floor((place - low) / size)
        inside = ((cell >= 0) & (cell < self.grid)).all(1)
        steps = np.array([1, self.grid[0], self.grid[0] * self.grid[1]])
        number = (cell[inside].astype(np.int64) * steps).sum(1)
        found, voxel, lengths = np.unique(number, return_inverse=True, return_counts=True)
        order = np.argsort(voxel, kind="stable")
        rank = np.arange(len(order)) - (np.cumsum(lengths) - lengths)[voxel[order]]
        fits = (rank < self.most_points) & (voxel[order] < self.most_voxels)
        count = min(len(found), self.most_voxels)
        voxels = np.zeros((count, self.most_points, points.shape[1]), points.dtype)
        voxels[voxel[order][fits], rank[fits]] = points[inside][order][fits]
        row, rows = self.grid[:2]
        kept = found[:count]
        cells = np.stack((kept // row // rows, kept // row % rows, kept % row), 1)
        return voxels, cells, np.minimum(lengths[:count], self.most_points)

    @classmethod
    def examples(cls) -> Sequence[Example]:
        """Return full and empty cells, and a size worth timing."""
        small = cls((-4.0, -4.0, -4.0), (1.0, 2.0, 8.0), (8, 4, 1), 3, 20)
        large = cls((-5.0, -5.0, -5.0), (0.025, 0.025, 10.0), (400, 400, 1))
        return [
            Example(small, [(100, 4)]),
            Example(small, [(5, 3)]),
            Example(large, [(120_000, 5)], timed=True),
        ]
