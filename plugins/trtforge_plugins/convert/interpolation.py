"""Resampling of one axis: coordinates, neighbours and weights, after ONNX's Resize.

Formulas: https://onnx.ai/onnx/operators/onnx__Resize.html and its reference implementation. The
cubic kernel is that of R. Keys, "Cubic convolution interpolation for digital image processing",
IEEE Transactions on Acoustics, Speech and Signal Processing 29 (1981).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.facts import attribute

_FLOAT = ir.DataType.FLOAT


@dataclass(frozen=True)
class Sampling:
    """How one axis is resampled; values are float32 scalars."""

    axis: int
    before: int
    """Entries of the input."""
    after: int
    """Entries of the result."""
    scale: ir.Value
    length: ir.Value
    """The result's length before it is rounded to ``after``."""
    roi: tuple[ir.Value, ...] | None = None
    """Start and end of the region of interest, as fractions of the input."""


def resampled(value: ir.Value, sampling: Sampling, node: ir.Node, build: Builder) -> ir.Value:
    """Return ``value`` resampled along one axis, by the attributes of ``node``."""
    place = _coordinates(sampling, node, build)
    if attribute(node, "mode", "nearest") == "nearest":
        found = _nearest(value, place, sampling, node, build)
    else:
        found = _weighted(value, place, sampling, node, build)
    if sampling.roi is None:
        return found
    outside = build.op(
        "Or", build.op("Less", place, 0), build.op("Greater", place, sampling.before - 1)
    )
    assert value.shape is not None  # noqa: S101  # Resize looked
    spread = build.reshape(outside, [-1, *[1] * (len(value.shape) - sampling.axis - 1)])
    other = build.const(attribute(node, "extrapolation_value", 0.0), found.dtype)
    return build.op("Where", spread, other, found)


def _coordinates(sampling: Sampling, node: ir.Node, build: Builder) -> ir.Value:
    """Return the place in the input of each entry of the result."""
    default = "asymmetric" if node.op_type == "Upsample" or build.opset < 11 else "half_pixel"
    mode = attribute(node, "coordinate_transformation_mode", default)
    offset = 0.5 if "half_pixel" in mode else 0.0  # of centres, or of corners
    entries = build.const(np.arange(sampling.after, dtype=np.float32) + np.float32(offset))
    last = sampling.before - 1
    if mode in ("asymmetric", "tf_half_pixel_for_nn"):
        return build.op("Div", entries, sampling.scale)
    if mode in ("align_corners", "tf_crop_and_resize"):
        single = build.op("Equal", sampling.length, 1)
        steps = build.op("Where", single, 1, build.op("Sub", sampling.length, 1))
        even = build.op("Div", build.op("Mul", entries, last), steps)
        if sampling.roi is None or mode == "align_corners":
            return even
        start, end = sampling.roi
        inside = build.op("Where", single, last / 2, even)
        span = build.op("Mul", inside, build.op("Sub", end, start))
        return build.op("Add", span, build.op("Mul", start, last))
    place = build.op("Sub", build.op("Div", entries, sampling.scale), 0.5)
    if mode == "pytorch_half_pixel":
        return build.op("Where", build.op("Equal", sampling.length, 1), -0.5, place)
    if mode == "half_pixel_symmetric":
        # The centre of the input goes to the centre of the result.
        part = build.op("Div", build.const(sampling.after, _FLOAT), sampling.length)
        shift = build.op("Mul", build.op("Sub", 1, part), sampling.before / 2)
        return build.op("Add", place, shift)
    return place


def _nearest(
    value: ir.Value, place: ir.Value, sampling: Sampling, node: ir.Node, build: Builder
) -> ir.Value:
    legacy = node.op_type == "Upsample" or build.opset < 11
    rounding = attribute(node, "nearest_mode", "floor" if legacy else "round_prefer_floor")
    if rounding == "round_prefer_floor":
        index = build.op("Ceil", build.op("Sub", place, 0.5))
    elif rounding == "round_prefer_ceil":
        index = build.op("Floor", build.op("Add", place, 0.5))
    else:
        index = build.op("Ceil" if rounding == "ceil" else "Floor", place)
    return build.op("Gather", value, _inside(index, sampling, build), axis=sampling.axis)


def _inside(index: ir.Value, sampling: Sampling, build: Builder) -> ir.Value:
    """Return the nearest index that the input has."""
    clamped = build.op("Max", build.op("Min", index, float(sampling.before - 1)), 0.0)
    return build.cast(clamped, ir.DataType.INT64)


def _weighted(
    value: ir.Value, place: ir.Value, sampling: Sampling, node: ir.Node, build: Builder
) -> ir.Value:
    """Gather the neighbours along a new axis, weigh them and add them up."""
    cubic = attribute(node, "mode") == "cubic"
    antialias = bool(attribute(node, "antialias", 0))
    # The kernel is stretched so that no entry is stepped over; `after` is a rounded size.
    narrowest = min((sampling.after - 0.5) / sampling.before, 1.0) if antialias else 1.0
    first = math.floor(-(2 if cubic else 1) / narrowest) + 1
    offsets = np.arange(first, 2 - first, dtype=np.float32)
    neighbours = build.op("Add", build.unsqueeze(build.op("Floor", place), [1]), offsets)
    distance = build.op("Abs", build.op("Sub", neighbours, build.unsqueeze(place, [1])))
    if antialias:
        distance = build.op("Mul", distance, build.op("Min", sampling.scale, 1))
    if cubic:
        weights = _keys(distance, attribute(node, "cubic_coeff_a", -0.75), build)
    else:
        weights = build.op("Max", build.op("Sub", 1, distance), 0)
    if attribute(node, "exclude_outside", 0):
        outside = build.op(
            "Or", build.op("Less", neighbours, 0),
            build.op("Greater", neighbours, sampling.before - 1),
        )  # fmt: skip
        weights = build.op("Where", outside, 0, weights)
    if attribute(node, "exclude_outside", 0) or antialias:
        weights = build.op("Div", weights, build.reduce("ReduceSum", weights, [1]))
    axis = sampling.axis
    found = build.op("Gather", value, _inside(neighbours, sampling, build), axis=axis)
    assert value.shape is not None  # noqa: S101  # Resize looked
    spread = [sampling.after, len(offsets), *[1] * (len(value.shape) - axis - 1)]
    weighed = build.op("Mul", found, build.reshape(weights, spread))
    return build.reduce("ReduceSum", weighed, [axis + 1], keepdims=False)


def _keys(distance: ir.Value, a: float, build: Builder) -> ir.Value:
    """Return the cubic kernel at ``distance``, which is not negative."""

    def polynomial(*coefficients: float) -> ir.Value:
        total = build.op("Mul", distance, coefficients[0])
        for coefficient in coefficients[1:-1]:
            total = build.op("Mul", build.op("Add", total, coefficient), distance)
        return build.op("Add", total, coefficients[-1])

    near = polynomial(a + 2, -(a + 3), 0, 1)
    far = polynomial(a, -5 * a, 8 * a, -4 * a)
    beyond = build.op("Where", build.op("Less", distance, 2), far, 0)
    return build.op("Where", build.op("Greater", distance, 1), beyond, near)
