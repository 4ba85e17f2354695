"""Normalizations in the forms, and with the outputs, that TensorRT has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder, rank
from trtforge_plugins.convert.facts import attribute, axis_of, used
from trtforge_plugins.convert.rule import Refusal, Rule


class LayerNormStatistics(Rule):
    """Compute mean and inverse deviation beside LayerNormalization, which stays one node."""

    name: ClassVar[str] = "layer-norm-statistics"
    ops: ClassVar[tuple[str, ...]] = ("LayerNormalization",)
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7: This version of TensorRT doesn't support mode than 1 outputs for "
        "LayerNormalization nodes!"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__LayerNormalization.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Leave the node its first output; write the others out in the type of stash_type."""
        if not any(output.name for output in node.outputs[1:]):
            return None
        value, dims = node.inputs[0], rank(node.inputs[0])
        axis = axis_of(attribute(node, "axis", -1), value)
        if value is None or dims is None or axis is None:
            return Refusal("the rank of its input is not known")
        kept = {key: one.value for key, one in node.attributes.items()}
        result = build.op("LayerNormalization", *node.inputs, **kept)
        if not (used(node, 1) or used(node, 2)):
            return [result, None, None][: len(node.outputs)]
        axes = list(range(axis, dims))
        stash = build.cast(value, ir.DataType(attribute(node, "stash_type", 1)))
        mean, variance = _moments(stash, axes, build)
        deviation = build.op("Sqrt", build.op("Add", variance, attribute(node, "epsilon", 1e-5)))
        return [result, mean, build.op("Reciprocal", deviation)][: len(node.outputs)]


class BatchNormTraining(Rule):
    """Give BatchNormalization in training mode the mean and the variance of its batch."""

    name: ClassVar[str] = "batch-norm-training"
    ops: ClassVar[tuple[str, ...]] = ("BatchNormalization",)
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7: This version of TensorRT does not support training_mode == 1 in "
        "BatchNormalization; ... doesn't support mode than 1 outputs"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__BatchNormalization.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Normalize by the batch's moments, which are mixed into the running ones."""
        value, scale, bias, old_mean, old_variance = node.inputs[:5]
        if not attribute(node, "training_mode", 0):
            several = any(output.name for output in node.outputs[1:])
            return Refusal("before opset 14 it has outputs of training") if several else None
        dims = rank(value)
        if value is None or old_mean is None or old_mean.dtype is None or dims is None:
            return Refusal("types and rank of its inputs are not known")
        # ONNX leaves the type of the sums open; float32 keeps those of a half-precision batch
        wide = value if value.dtype == ir.DataType.DOUBLE else build.cast(value, ir.DataType.FLOAT)
        axes = [0, *range(2, dims)]
        moments = [
            build.cast(build.squeeze(moment, axes), old_mean.dtype)
            for moment in _moments(wide, axes, build)
        ]
        epsilon, momentum = attribute(node, "epsilon"), attribute(node, "momentum", 0.9)
        result = build.op("BatchNormalization", value, scale, bias, *moments, epsilon=epsilon)
        running = [
            build.op("Add", build.op("Mul", old, momentum), build.op("Mul", new, 1.0 - momentum))
            for old, new in zip((old_mean, old_variance), moments, strict=True)
        ]
        return [result, *running][: len(node.outputs)]


class BatchNormPerElement(Rule):
    """Write a BatchNormalization whose statistics are of each element, not of each channel."""

    name: ClassVar[str] = "batch-norm-per-element"
    ops: ClassVar[tuple[str, ...]] = ("BatchNormalization",)
    concerns: ClassVar[str] = "TensorRT-RTX 1.7: The shape of the scale input must be (C, )"
    source: ClassVar[str] = (
        "https://onnx.ai/onnx/operators/onnx__BatchNormalization.html (version 7, spatial)"
    )

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Subtract, multiply, add."""
        if attribute(node, "spatial", 1) or build.opset >= 9:
            return None
        if any(output.name for output in node.outputs[1:]):
            return Refusal("before opset 14 it has outputs of training")
        value, scale, bias, mean, variance = node.inputs[:5]
        deviation = build.op("Sqrt", build.op("Add", variance, attribute(node, "epsilon", 1e-5)))
        normal = build.op("Div", build.op("Sub", value, mean), deviation)
        return [build.op("Add", build.op("Mul", normal, scale), bias)]


class NormalizeWithoutSpace(Rule):
    """Give a normalization of [batch, channels] one spatial axis of 1, and take it away after."""

    name: ClassVar[str] = "normalize-without-space"
    ops: ClassVar[tuple[str, ...]] = ("GroupNormalization", "InstanceNormalization")
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7: Input to normalization should be at least 3D, the actual number of "
        "dimensions is 2."
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__GroupNormalization.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | None:
        """Unsqueeze, normalize, squeeze."""
        value = node.inputs[0]
        if value is None or rank(value) != 2:
            return None
        kept = {key: one.value for key, one in node.attributes.items()}
        made = build.op(node.op_type, build.unsqueeze(value, [2]), *node.inputs[1:], **kept)
        return [build.squeeze(made, [2])]


def _moments(value: ir.Value, axes: Sequence[int], build: Builder) -> tuple[ir.Value, ir.Value]:
    """Return mean and population variance over ``axes``, which stay as dimensions of 1."""
    mean = build.reduce("ReduceMean", value, axes)
    centred = build.op("Sub", value, mean)
    return mean, build.reduce("ReduceMean", build.op("Mul", centred, centred), axes)
