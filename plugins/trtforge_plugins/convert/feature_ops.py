"""Operators of ``ai.onnx.ml`` on numbers, as converters of classic models write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.facts import attribute
from trtforge_plugins.convert.rule import Refusal, Rule

_CONCERN = "TensorRT-RTX 1.7, TensorRT 10 and 11: no operators of ai.onnx.ml"
_UNKNOWN = Refusal("the type of its input is not known")


class Binarizer(Rule):
    """Write a Binarizer as a comparison."""

    name: ClassVar[str] = "binarizer"
    ops: ClassVar[tuple[str, ...]] = ("ai.onnx.ml::Binarizer",)
    concerns: ClassVar[str] = _CONCERN
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx_aionnxml_Binarizer.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Compare with the threshold."""
        value = node.inputs[0]
        if value is None or value.dtype is None:
            return _UNKNOWN
        above = build.op("Greater", value, float(attribute(node, "threshold", 0.0)))
        return [build.cast(above, value.dtype)]


class ArrayFeatureExtractor(Rule):
    """Write an ArrayFeatureExtractor as a Gather on the last axis."""

    name: ClassVar[str] = "array-feature-extractor"
    ops: ClassVar[tuple[str, ...]] = ("ai.onnx.ml::ArrayFeatureExtractor",)
    concerns: ClassVar[str] = _CONCERN
    source: ClassVar[str] = (
        "https://onnx.ai/onnx/operators/onnx_aionnxml_ArrayFeatureExtractor.html"
    )

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Gather; a vector becomes a matrix of one row, as in ONNX Runtime."""
        value, places = node.inputs[:2]
        if value is None or value.dtype is None or value.shape is None or places is None:
            return _UNKNOWN
        rows = build.unsqueeze(value, [0]) if len(value.shape) == 1 else value
        return [
            build.op("Gather", rows, build.reshape(places, [-1]), axis=len(rows.shape or ()) - 1)
        ]


class Scaler(Rule):
    """Write a Scaler as a subtraction and a product, in float32."""

    name: ClassVar[str] = "scaler"
    ops: ClassVar[tuple[str, ...]] = ("ai.onnx.ml::Scaler",)
    concerns: ClassVar[str] = _CONCERN
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx_aionnxml_Scaler.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Subtract the offset, multiply."""
        value = node.inputs[0]
        if value is None or value.dtype is None:
            return _UNKNOWN
        offset, scale = (
            np.asarray(attribute(node, name, default), np.float32)
            for name, default in (("offset", [0.0]), ("scale", [1.0]))
        )
        centred = build.op("Sub", build.cast(value, ir.DataType.FLOAT), offset)
        return [build.op("Mul", centred, scale)]


class LinearRegressor(Rule):
    """Write a LinearRegressor without post-processing as a product and a sum."""

    name: ClassVar[str] = "linear-regressor"
    ops: ClassVar[tuple[str, ...]] = ("ai.onnx.ml::LinearRegressor",)
    concerns: ClassVar[str] = _CONCERN
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/onnx_aionnxml_LinearRegressor.html"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Multiply with the coefficients, add the intercepts."""
        value = node.inputs[0]
        if value is None or value.dtype is None or value.shape is None or len(value.shape) != 2:
            return Refusal("its input is no matrix of a known type")
        if attribute(node, "post_transform", "NONE") != "NONE":
            return Refusal("only its post_transform NONE is known here")
        targets = int(attribute(node, "targets", 1))
        table = np.asarray(attribute(node, "coefficients", ()), np.float32).reshape(targets, -1)
        found = build.op("MatMul", build.cast(value, ir.DataType.FLOAT), table.T.copy())
        intercepts = attribute(node, "intercepts")
        if intercepts is None:
            return [found]
        return [build.op("Add", found, np.asarray(intercepts, np.float32))]
