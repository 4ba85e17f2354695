"""Dropout of a model that was exported for training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge.graph import scalar
from trtforge_plugins.convert.builder import Builder, static_shape
from trtforge_plugins.convert.facts import operand, used
from trtforge_plugins.convert.rule import Refusal, Rule


class TrainingDropout(Rule):
    """Write a Dropout in training mode that drops nothing as an Identity."""

    name: ClassVar[str] = "training-dropout"
    ops: ClassVar[tuple[str, ...]] = ("Dropout",)
    concerns: ClassVar[str] = (
        "TensorRT-RTX 1.7: TensorRT does not support the Dropout operator in training mode"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx__Dropout.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Pass the input on; the mask is true everywhere."""
        value, training = node.inputs[0], operand(node, 2)
        mode = scalar(training)
        if training is None or (mode is not None and not mode):
            return None
        ratio = 0.5 if operand(node, 1) is None else scalar(operand(node, 1))
        if value is None or mode is None or ratio is None:
            return Refusal("its training mode or ratio is a run-time input; freeze it")
        if ratio > 0:
            return Refusal(
                "what it drops is random and TensorRT draws other numbers; export for inference"
            )
        result = build.op("Identity", value)
        if not used(node, 1):
            return [result, None][: len(node.outputs)]
        shape = static_shape(value)
        if shape is not None:
            return [result, build.const(np.ones(shape, np.bool_))]
        kept = build.const(np.ones((), np.bool_))
        return [result, build.op("Expand", kept, build.dims(value))]
