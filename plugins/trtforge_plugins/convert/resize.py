"""Resize, one axis after the other: gather the neighbours of each result and weigh them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge.graph import constant
from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.facts import attribute, declared_size, is_run_time, operand
from trtforge_plugins.convert.interpolation import Sampling, resampled
from trtforge_plugins.convert.rule import Refusal, Rule

_FLOAT = ir.DataType.FLOAT
MAX_ENTRIES = 1 << 16
"""Entries of a resized axis; above it the tables of neighbours would weigh more than the model."""


@dataclass(frozen=True)
class _Request:
    """What a Resize or Upsample node asks for, whatever its version."""

    axes: tuple[int, ...]
    scales: ir.Value | None
    sizes: ir.Value | None
    roi: ir.Value | None
    policy: str


class Resize(Rule):
    """Write a Resize that TensorRT does not take as gathers and weighted sums along its axes.

    Scales and sizes may be run-time inputs where the model declares the shape of the result.
    """

    name: ClassVar[str] = "resize"
    ops: ClassVar[tuple[str, ...]] = ("Resize", "Upsample")
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7: antialias, keep_aspect_ratio_policy, half_pixel_symmetric, "
        "tf_crop_and_resize, axes with scales, and scales that are a run-time input"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__Resize.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Resample axis by axis."""
        value = node.inputs[0]
        request = _request(node)
        if value is None or value.shape is None or value.dtype is None or request is None:
            return Refusal("the rank of its input is not known")
        if _taken(node, request):
            return None
        mode = attribute(node, "mode", "nearest")
        if mode != "nearest" and not value.dtype.is_floating_point():
            return Refusal("ONNX does not say how integers between two integers are rounded")
        samplings = _samplings(node, request, build)
        if isinstance(samplings, Refusal):
            return samplings
        exact = mode == "nearest"  # moves values and computes none
        result = value if exact else build.cast(value, _FLOAT)
        for sampling in samplings:
            result = resampled(result, sampling, node, build)
        return [build.cast(result, value.dtype)]


def _request(node: ir.Node) -> _Request | None:
    """Read the node by its version: Upsample and Resize of opset 10 have fewer inputs."""
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    rank = len(value.shape)
    axes = tuple(int(axis) % rank for axis in attribute(node, "axes", range(rank)))
    policy = attribute(node, "keep_aspect_ratio_policy", "stretch")
    if node.op_type == "Upsample" or len(node.inputs) == 2:
        return _Request(axes, operand(node, 1), None, None, policy)
    roi, scales, sizes = (_present(operand(node, i)) for i in (1, 2, 3))
    return _Request(axes, scales, sizes, roi, policy)


def _present(value: ir.Value | None) -> ir.Value | None:
    """Return ``value``, or None where it is empty, which older versions mean as left out."""
    empty = value is None or declared_size(value) == 0
    return None if empty else value


def _taken(node: ir.Node, request: _Request) -> bool:
    """Whether TensorRT takes the node as it is."""
    trivial = request.axes == tuple(range(len(request.axes)))
    return not (
        attribute(node, "antialias", 0)
        or request.policy != "stretch"
        or attribute(node, "coordinate_transformation_mode", "half_pixel")
        in ("half_pixel_symmetric", "tf_crop_and_resize")
        or (request.scales is not None and (is_run_time(request.scales) or not trivial))
    )


def _samplings(node: ir.Node, request: _Request, build: Builder) -> list[Sampling] | Refusal:
    """Return how each axis is resampled, without those that stay as they are."""
    value = node.inputs[0]
    assert value is not None  # noqa: S101  # rewrite looked
    given = request.scales if request.sizes is None else request.sizes
    if given is None:
        return Refusal("it has neither scales nor sizes")
    known = constant(given)
    crops = attribute(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize"
    kept = _kept_scale(value, request, build) if request.policy != "stretch" else None
    found = []
    for index, axis in enumerate(request.axes):
        before, after = declared_size(value, axis), declared_size(node.outputs[0], axis)
        number = None if known is None else float(known[index])
        if _unchanged(before, after, number, of_sizes=request.sizes is not None) and not crops:
            continue
        if before is None or (after is None and (number is None or kept is not None)):
            return Refusal("the model declares no sizes for the axes that change")
        if after is None:
            after = int(number or 0) if request.sizes is not None else int(before * (number or 0))
        if max(before, after) > MAX_ENTRIES:
            return Refusal(f"an axis has more than {MAX_ENTRIES} entries")
        scale = kept or _scale(request, index, before, after, build)
        stretched = request.sizes is not None and kept is None
        length = build.const(after, _FLOAT) if stretched else build.op("Mul", scale, before)
        roi = None
        if crops and request.roi is not None:
            flat = build.cast(request.roi, _FLOAT)
            roi = tuple(
                build.op("Gather", flat, np.int64(at)) for at in (index, index + len(request.axes))
            )
        elif crops:
            return Refusal("tf_crop_and_resize needs a region of interest")
        found.append(Sampling(axis, before, after, scale, length, roi))
    return found


def _unchanged(
    before: int | None, after: int | None, number: float | None, *, of_sizes: bool
) -> bool:
    """Whether an axis stays as it is: a scale of 1, the same size, or one entry for one."""
    if number is not None:
        return number == before if of_sizes else number == 1.0
    return before == after and (of_sizes or before == 1)


def _scale(request: _Request, index: int, before: int, after: int, build: Builder) -> ir.Value:
    """Return the scale of one axis as a scalar."""
    if request.sizes is not None:
        return build.const(after / before, _FLOAT)
    assert request.scales is not None  # noqa: S101  # one of them is there
    return build.op("Gather", request.scales, np.int64(index))


def _kept_scale(value: ir.Value, request: _Request, build: Builder) -> ir.Value | None:
    """Return the one scale of all axes that keeps the aspect ratio."""
    if request.sizes is None or value.shape is None:
        return None
    sizes = [declared_size(value, axis) for axis in request.axes]
    if None in sizes:
        return None
    ratios = build.op("Div", build.cast(request.sizes, _FLOAT), np.asarray(sizes, np.float32))
    bound = "ReduceMin" if request.policy == "not_larger" else "ReduceMax"
    return build.reshape(build.reduce(bound, ratios, [0]), [])
