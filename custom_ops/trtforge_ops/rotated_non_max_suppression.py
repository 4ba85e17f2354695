"""RotatedNonMaxSuppression: the same for turned boxes, as detectors of aerial images use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trtforge_ops.non_max_suppression import Suppression, share_of

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class RotatedNonMaxSuppression(Suppression):
    """``boxes`` is [images, boxes, 5]: centre x and y, width, height, angle in radians.

    All else is as in NonMaxSuppression. The common area of two boxes is the integral of the height
    that the second one, seen from the first, has within it: a sum over its four edges.
    """

    name = "trtforge::RotatedNonMaxSuppression"
    since = 13
    function = """
        one = Constant <value_float = 1.0> ()
        nil = Constant <value_float = 0.0> ()
        half = Constant <value_float = 0.5> ()
        zero = Constant <value_ints = [0]> ()
        last = Constant <value_ints = [-1]> ()
        second = Constant <value_ints = [1]> ()
        {% set parts = ", num_outputs = 5" if opset >= 18 else "" %}
        x, y, width, height, angle = Split <axis = 2{{ parts }}> (boxes)
        cosine = Cos (angle)
        sine = Sin (angle)
        w = Mul (width, half)
        h = Mul (height, half)
        low_w = Neg (w)
        low_h = Neg (h)
        area = Mul (width, height)
        {% for name in ("x", "y", "w", "h", "cosine", "sine", "area") %}
        other_{{ name }} = Transpose <perm = [0, 2, 1]> ({{ name }})
        {% endfor %}
        dx = Sub (other_x, x)
        dy = Sub (other_y, y)
        {% for to, a, b, c, d, sign in (
            ("cx", "dx", "cosine", "dy", "sine", "Add"),
            ("cy", "dy", "cosine", "dx", "sine", "Sub"),
            ("cos", "other_cosine", "cosine", "other_sine", "sine", "Add"),
            ("sin", "other_sine", "cosine", "other_cosine", "sine", "Sub")) %}
        {{ to }}_1 = Mul ({{ a }}, {{ b }})
        {{ to }}_2 = Mul ({{ c }}, {{ d }})
        {{ to }} = {{ sign }} ({{ to }}_1, {{ to }}_2)
        {% endfor %}
        ux = Mul (other_w, cos)
        uy = Mul (other_w, sin)
        vx_back = Mul (other_h, sin)
        vx = Neg (vx_back)
        vy = Mul (other_h, cos)
        {% for axis in "xy" %}
        right_{{ axis }} = Add (c{{ axis }}, u{{ axis }})
        left_{{ axis }} = Sub (c{{ axis }}, u{{ axis }})
        {{ axis }}0 = Add (right_{{ axis }}, v{{ axis }})
        {{ axis }}1 = Add (left_{{ axis }}, v{{ axis }})
        {{ axis }}2 = Sub (left_{{ axis }}, v{{ axis }})
        {{ axis }}3 = Sub (right_{{ axis }}, v{{ axis }})
        {{ axis }}4 = Identity ({{ axis }}0)
        {% endfor %}
        {% for i in range(4) %}
        {% for end, at in (("from", i), ("to", i + 1)) %}
        {{ end }}_low_{{ i }} = Max (x{{ at }}, low_w)
        {{ end }}_{{ i }} = Min ({{ end }}_low_{{ i }}, w)
        {% endfor %}
        run_{{ i }} = Sub (x{{ i + 1 }}, x{{ i }})
        upright_{{ i }} = Equal (run_{{ i }}, nil)
        safe_run_{{ i }} = Where (upright_{{ i }}, one, run_{{ i }})
        climb_{{ i }} = Sub (y{{ i + 1 }}, y{{ i }})
        steep_{{ i }} = Div (climb_{{ i }}, safe_run_{{ i }})
        slope_{{ i }} = Where (upright_{{ i }}, nil, steep_{{ i }})
        inset_{{ i }} = Sub (from_{{ i }}, x{{ i }})
        gain_{{ i }} = Mul (inset_{{ i }}, slope_{{ i }})
        start_{{ i }} = Add (y{{ i }}, gain_{{ i }})
        part_{{ i }} = Sub (to_{{ i }}, from_{{ i }})
        rise_{{ i }} = Mul (part_{{ i }}, slope_{{ i }})
        flat_{{ i }} = Equal (rise_{{ i }}, nil)
        safe_rise_{{ i }} = Where (flat_{{ i }}, one, rise_{{ i }})
        {% for end, edge in (("low", "low_h"), ("high", "h")) %}
        gap_{{ end }}_{{ i }} = Sub ({{ edge }}, start_{{ i }})
        raw_{{ end }}_{{ i }} = Div (gap_{{ end }}_{{ i }}, safe_rise_{{ i }})
        known_{{ end }}_{{ i }} = Where (flat_{{ i }}, nil, raw_{{ end }}_{{ i }})
        at_{{ end }}_{{ i }} = Clip (known_{{ end }}_{{ i }}, nil, one)
        {% endfor %}
        t1_{{ i }} = Min (at_low_{{ i }}, at_high_{{ i }})
        t2_{{ i }} = Max (at_low_{{ i }}, at_high_{{ i }})
        t0_{{ i }} = Identity (nil)
        t3_{{ i }} = Identity (one)
        {% for t in range(4) %}
        climbed_{{ t }}_{{ i }} = Mul (t{{ t }}_{{ i }}, rise_{{ i }})
        height_{{ t }}_{{ i }} = Add (start_{{ i }}, climbed_{{ t }}_{{ i }})
        raised_{{ t }}_{{ i }} = Max (height_{{ t }}_{{ i }}, low_h)
        cut_{{ t }}_{{ i }} = Min (raised_{{ t }}_{{ i }}, h)
        {% endfor %}
        {% for t in range(3) %}
        both_{{ t }}_{{ i }} = Add (cut_{{ t }}_{{ i }}, cut_{{ t + 1 }}_{{ i }})
        long_{{ t }}_{{ i }} = Sub (t{{ t + 1 }}_{{ i }}, t{{ t }}_{{ i }})
        piece_{{ t }}_{{ i }} = Mul (both_{{ t }}_{{ i }}, long_{{ t }}_{{ i }})
        {% endfor %}
        mean_{{ i }} = Sum (piece_0_{{ i }}, piece_1_{{ i }}, piece_2_{{ i }})
        below_{{ i }} = Mul (part_{{ i }}, mean_{{ i }})
        {% endfor %}
        twice = Sum (below_0, below_1, below_2, below_3)
        backwards = Mul (twice, half)
        common = Neg (backwards)
        areas = Add (area, other_area)
        union = Sub (areas, common)
        meets = Greater (common, nil)
        least = Min (area, other_area)
        solid = Greater (least, nil)
        real = And (meets, solid)
        safe_union = Where (real, union, one)
        share = Div (common, safe_union)
        too_much = Greater (share, iou_threshold)
        suppresses = And (real, too_much)
        lowest = Constant <value_float = -3.4028234e38> ()
        above = Greater (scores, score_threshold)
        open = Where (above, scores, lowest)
        sizes = Shape (scores)
        two = Constant <value_ints = [2]> ()
        pairs = Slice (sizes, zero, two)
        unit = Constant <value_ints = [1]> ()
        count_shape = Concat <axis = 0> (pairs, unit)
        none = ConstantOfShape <value = int64[1] {0}> (count_shape)
        steps = Gather (sizes, two)
        trips = Squeeze (steps, zero)
        go = Constant <value = bool {1}> ()
        rest, kept_all, best_all, fine_all = Loop <body = choose (
            int64 step, bool on, float[i, c, n] left, int64[i, c, o] kept
        ) => (bool on_out, float[i, c, n] left_out, int64[i, c, o] kept_out, int64[i, c, o] best,
              bool[i, c, o] fine) {
            best = ArgMax <axis = 2, keepdims = 1> (left)
            value = GatherElements <axis = 2> (left, best)
            some = Greater (value, lowest)
            room = Less (kept, max_output_boxes_per_class)
            fine = And (some, room)
            rows = GatherND <batch_dims = 1> (suppresses, best)
            gone = And (rows, fine)
            others = Where (gone, lowest, left)
            nothing = Sub (value, value)
            itself = Add (nothing, lowest)
            left_out = ScatterElements <axis = 2> (others, best, itself)
            one_more = Cast <to = 7> (fine)
            kept_out = Add (kept, one_more)
            on_out = Identity (on)
        }> (trips, go, open, none)
        flat_best = Squeeze (best_all, last)
        flat_fine = Squeeze (fine_all, last)
        by_class = Transpose <perm = [1, 2, 0]> (flat_best)
        fine_by_class = Transpose <perm = [1, 2, 0]> (flat_fine)
        found = NonZero (fine_by_class)
        entries = Transpose <perm = [1, 0]> (found)
        box = GatherND (by_class, entries)
        column = Unsqueeze (box, second)
        where_from = Slice (entries, zero, two, second)
        selected = Concat <axis = 1> (where_from, column)
    """

    @staticmethod
    def numbers(center: Array, size: Array, angle: Array) -> Array:
        """Return centre, size and angle."""
        return np.concatenate((center, size, angle), 1)

    def overlaps(self, box: Array, others: Array) -> Array:
        """Return intersection over union of ``box`` and each of ``others``, in float64."""
        x, y, width, height, angle = box.astype(np.float64)
        other = others.astype(np.float64)
        turn = np.asarray([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        centers = (other[:, :2] - [x, y]) @ turn.T
        angles = other[:, 4] - angle
        u = other[:, 2, None] / 2 * np.stack((np.cos(angles), np.sin(angles)), 1)
        v = other[:, 3, None] / 2 * np.stack((-np.sin(angles), np.cos(angles)), 1)
        corners = np.stack((u + v, v - u, -u - v, u - v), 1) + centers[:, None]
        common = np.asarray([_clipped_area(c, width / 2, height / 2) for c in corners])
        return share_of(common, width * height, other[:, 2] * other[:, 3])


def _clipped_area(corners: Array, half_width: float, half_height: float) -> float:
    """Cut a polygon to a rectangle around 0 (Sutherland and Hodgman, 1974), return its area."""
    points = [tuple(map(float, corner)) for corner in corners]
    for axis, limit in enumerate((half_width, half_height)):
        for sign in (1, -1):
            points = _cut(points, axis, sign, limit)
    pairs = zip(points, points[1:] + points[:1], strict=True)
    return abs(sum(a[0] * b[1] - a[1] * b[0] for a, b in pairs)) / 2


def _cut(
    points: list[tuple[float, ...]], axis: int, sign: int, limit: float
) -> list[tuple[float, ...]]:
    """Keep what has ``sign * coordinate <= limit``."""
    kept: list[tuple[float, ...]] = []
    for a, b in zip(points, points[1:] + points[:1], strict=True):
        here, there = limit - sign * a[axis], limit - sign * b[axis]
        if here >= 0:
            kept.append(a)
        if here * there < 0:
            t = here / (here - there)
            kept.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])))
    return kept
