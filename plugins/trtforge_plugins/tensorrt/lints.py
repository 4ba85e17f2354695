"""Advice on a model: what makes its engine worse than it could be, or needs care.

Each lint looks at the graph alone; nothing is parsed, run or built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from trtforge import Request
from trtforge.diagnosis import Finding
from trtforge.graph import bodies, constant_tensor, is_op, label, nodes
from trtforge.quantities import format_bytes
from trtforge_plugins.tensorrt.lints_of_values import duplicates, float16_risk, integer_risk
from trtforge_plugins.tensorrt.qdq_lints import misplaced

OLD_OPSET = 13
"""Below it, axes of Squeeze and Unsqueeze are attributes and Q/DQ has no axis."""
HUGE = 64 * 2**20
_WEIGHTED = {
    "Conv", "ConvTranspose", "MatMul", "Gemm", "Gather", "DequantizeLinear", "QuantizeLinear",
    "LSTM", "GRU", "RNN", "Einsum", "Attention", "EmbedLayerNormalization", "MatMulNBits",
}  # fmt: skip
_SHAPE_FROM_DATA = ("NonZero", "Unique", "Compress", "NonMaxSuppression", "StringSplit")

Look = Callable[[ir.Model, Request], Iterator[tuple[str, str, str]]]
"""Yields node (or value), operator and evidence for each place where a lint applies."""


@dataclass(frozen=True)
class Lint:
    """One kind of advice."""

    code: str
    title: str
    cause: str
    remedies: tuple[str, ...]
    look: Look


def lint(model: ir.Model, request: Request) -> Iterator[Finding]:
    """Yield the advice of all lints on ``model``, which stays as it is."""
    for each in LINTS:
        for node, op, evidence in each.look(model, request):
            yield Finding(
                each.code, node, op, each.cause, evidence, each.remedies, "advice", seen_in="model"
            )


def advice(code: str, place: str, evidence: str) -> Finding:
    """Return advice with one of the codes of this file on something that was seen elsewhere."""
    known = next(each for each in LINTS if each.code == code)
    return Finding(
        code, place, "", known.cause, evidence, known.remedies, "advice", seen_in="model"
    )


def _old_opset(model: ir.Model, _request: Request) -> Iterator[tuple[str, str, str]]:
    version = model.graph.opset_imports.get("", OLD_OPSET)
    if version < OLD_OPSET:
        yield "", "", f"opset {version}"


def _double(model: ir.Model, _request: Request) -> Iterator[tuple[str, str, str]]:
    for node in nodes(model):
        if any(value.dtype == ir.DataType.DOUBLE for value in node.outputs):
            yield label(node), node.op_type, "its result is float64"


def _huge_constants(model: ir.Model, _request: Request) -> Iterator[tuple[str, str, str]]:
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype == ir.DataType.STRING or tensor.nbytes < HUGE:
            continue
        if not any(use.node.op_type in _WEIGHTED for use in value.uses()):
            yield value.name or "", "", f"{format_bytes(tensor.nbytes)} of {tensor.dtype.name}"
    for node in nodes(model):
        held = constant_tensor(node.outputs[0]) if is_op(node, "Constant") else None
        if held is not None and held.dtype != ir.DataType.STRING and held.nbytes >= HUGE:
            yield label(node), "Constant", f"{format_bytes(held.nbytes)} of {held.dtype.name}"


def _no_range(model: ir.Model, request: Request) -> Iterator[tuple[str, str, str]]:
    for value in model.graph.inputs:
        if value.is_initializer() or request.profiles:  # one that is missing there is no advice
            continue
        if value.shape is None or not value.shape.is_static():
            dims = "of unknown rank" if value.shape is None else str(value.shape)
            yield value.name or "", "", f"its shape is {dims}"


def _unused(model: ir.Model, _request: Request) -> Iterator[tuple[str, str, str]]:
    for value in model.graph.initializers.values():
        if not value.uses() and not value.is_graph_output():
            tensor = value.const_value
            known = tensor is not None and tensor.dtype != ir.DataType.STRING
            yield value.name or "", "", format_bytes(tensor.nbytes) if tensor and known else ""


def _shapes_from_data(model: ir.Model, _request: Request) -> Iterator[tuple[str, str, str]]:
    for node in nodes(model):
        if is_op(node, *_SHAPE_FROM_DATA):
            yield label(node), node.op_type, "the length of its result depends on the data"
        elif is_op(node, "Loop") and any(_open_length(node)):
            yield label(node), "Loop", "it collects a length that is not known beforehand"


def _open_length(loop: ir.Node) -> Iterator[bool]:
    """Yield, for each scan output of a Loop, whether its length is not known beforehand."""
    carried = len(next(bodies(loop)).inputs) - 2
    trips = loop.inputs[0]
    counted = trips is not None and constant_tensor(trips) is not None
    for value in loop.outputs[carried:]:
        first = value.shape[0] if value.shape is not None and len(value.shape) else None
        yield not counted and not isinstance(first, int)


LINTS = (
    Lint(
        "old-opset",
        "The opset is old",
        f"the model uses an opset below {OLD_OPSET}, whose operators lack forms that TensorRT "
        "and quantization need",
        ("put `upgrade-opset` first into the recipe", "export with opset 17 or later"),
        _old_opset,
    ),
    Lint(
        "float64",
        "Computes in float64",
        "the node computes in float64, which GPUs do at a small part of the speed of float32",
        ("export in float32", "cast the values to float32 in the model where their range allows"),
        _double,
    ),
    Lint(
        "integer-range",
        "A constant does not fit 32 bits",
        "a constant of int64 does not fit int32, which TensorRT before 10 narrows it to",
        ("fold it with the recipe `convert`", "use TensorRT 10 or later, or TensorRT-RTX"),
        integer_risk,
    ),
    Lint(
        "huge-constant",
        "A huge constant that is no weight",
        "a constant of 64MiB or more is no weight of a product: most often a mask or table that "
        "was expanded while exporting",
        ("compute it in the model, with Expand or Range", "let it broadcast"),
        _huge_constants,
    ),
    Lint(
        "input-without-range",
        "A dynamic input has no range",
        "the input has dimensions that are not fixed, so that a build needs a range for it",
        (
            "give it in the recipe under `shapes`, which `trtforge init` writes",
            "fix the dimensions in the model",
        ),
        _no_range,
    ),
    Lint(
        "unused-initializer",
        "A constant that nothing reads",
        "no node reads this constant",
        ("drop it with `drop-dead-code`, which the recipe `convert` has",),
        _unused,
    ),
    Lint(
        "duplicated-initializer",
        "The same constant twice",
        "another constant holds the same values",
        ("merge them with `dedupe-weights`, which the recipe `convert` has",),
        duplicates,
    ),
    Lint(
        "qdq-misplaced",
        "A Q/DQ pair stands where TensorRT cannot use it",
        "a QuantizeLinear or DequantizeLinear stands where TensorRT cannot fuse it, so that the "
        "layer runs in another type than the model says",
        (
            "let `insert-qdq` place the pairs (docs/quantization.md)",
            "quantize both inputs of a product, activations per tensor",
            "quantize nothing in front of an activation function",
        ),
        misplaced,
    ),
    Lint(
        "float16-overflow",
        "Values that float16 does not hold",
        "a constant has values beyond the range of float16 (above 65504, or so small that they "
        "become 0)",
        (
            "let `cast` keep the node in float32: give it data (docs/mixed-precision.md)",
            "use bfloat16, which has the range of float32",
        ),
        float16_risk,
    ),
    Lint(
        "data-dependent-shape",
        "The shape of a result depends on data",
        "the shape of the node's result is only known when it ran, which costs a copy to the host "
        "and keeps CUDA graphs from being used",
        (
            "give a fixed number of results, for example TopK in place of NonZero",
            "move the node behind the engine",
        ),
        _shapes_from_data,
    ),
)
