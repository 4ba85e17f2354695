"""Operators that no rewrite can bring to TensorRT: they are left alone, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import onnx_ir as ir

from trtforge_plugins.convert.builder import Builder
from trtforge_plugins.convert.rule import Refusal, Rule

_TEXT = "TensorRT has no text; run the part of the model that reads text before the engine"
_RANDOM = (
    "its result is random and TensorRT draws other numbers; give them to the model as an input"
)
_TRAINING = "it belongs to training; export the model for inference"
_IMAGE = "TensorRT decodes no images; decode them before the engine"
_TREES = "TensorRT has no tree ensembles; run it beside the engine"
_SAMPLES = "TensorRT has no support vector machines; run it beside the engine"

_REASONS: Mapping[str, str] = MappingProxyType({
    **dict.fromkeys(
        ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit",
         "ai.onnx.ml::CategoryMapper", "ai.onnx.ml::DictVectorizer"), _TEXT),
    **dict.fromkeys(
        ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
         "RandomUniformLike"), _RANDOM),
    **dict.fromkeys(
        tuple(f"ai.onnx.preview.training::{name}"
              for name in ("Adagrad", "Adam", "Gradient", "Momentum")), _TRAINING),
    "ImageDecoder": _IMAGE,
    **dict.fromkeys(
        tuple(f"ai.onnx.ml::TreeEnsemble{kind}" for kind in ("", "Classifier", "Regressor")),
        _TREES),
    **dict.fromkeys(("ai.onnx.ml::SVMClassifier", "ai.onnx.ml::SVMRegressor"), _SAMPLES),
})  # fmt: skip


class BeyondTensorRt(Rule):
    """Leave alone what no rewrite can bring to TensorRT, and say what to do instead."""

    name: ClassVar[str] = "beyond-tensorrt"
    ops: ClassVar[tuple[str, ...]] = tuple(_REASONS)
    concerns: ClassVar[str] = (
        "TensorRT 10, 11, RTX 1.7: no such operators, and none to make them of"
    )
    source: ClassVar[str] = "https://onnx.ai/onnx/operators/"

    def rewrite(self, node: ir.Node, build: Builder) -> Sequence[ir.Value | None] | Refusal | None:
        """Refuse with the reason for this operator."""
        del build
        key = (
            f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        )
        return Refusal(_REASONS[key])
